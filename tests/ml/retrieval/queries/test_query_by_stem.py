from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ml.artifacts import DataLayout
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.queries.retriever import StemRetriever
from ml.retrieval.tables.publish import database_uri, publish_corpus


@pytest.fixture
def retriever(
    write_corpus: Any, make_sine: Any, layout: DataLayout, band_model: Any
) -> StemRetriever:
    """Two corpora with tracks of the same names; ``one/bass`` is twice there, and a near one."""
    near = make_sine(4, 2.0) + make_sine(5, 2.0, 0.05)
    for name, stems in {
        "songs": {
            "one": {"bass": ("bass", make_sine(4, 2.0)), "piano": ("keys", make_sine(9, 2.0))},
            "two": {"copy": ("bass", make_sine(4, 2.0)), "near": ("bass", near)},
        },
        "other": {"one": {"near": ("bass", near)}},
    }.items():
        write_corpus(name, stems)
        embed_corpus(name, [band_model()], layout, {})
        publish_corpus(layout, "id-bands", name)
    return StemRetriever(band_model(), database_uri(layout, "id-bands"))


def keys(retriever: StemRetriever, example: Any = "songs/one/bass", **options: Any) -> list[str]:
    return [c.key for c in retriever.query_by_stem(example, 5, **options)]


def test_finds_duplicates_first_and_never_itself(retriever: StemRetriever) -> None:
    found = retriever.query_by_stem("songs/one/bass", 5)
    assert [c.key for c in found] == [
        "songs/two/copy",
        "other/one/near",
        "songs/two/near",
        "songs/one/piano",
    ]
    assert found[0].score == pytest.approx(1, abs=1e-6)
    assert (found[0].best_start_s, found[0].mix_start_s) == (0.0, None)


def test_a_file_like_a_stem_finds_it(
    retriever: StemRetriever, make_sine: Any, tmp_path: Path
) -> None:
    path = tmp_path / "example.wav"
    soundfile.write(path, make_sine(4, 2.0), 16_000, subtype="FLOAT")
    for example in (path, str(path), make_sine(4, 2.0), (make_sine(4, 2.0), 16_000)):
        assert keys(retriever, example)[:2] == ["songs/one/bass", "songs/two/copy"]
    assert len(keys(retriever, path)) == 5


def test_filters(retriever: StemRetriever) -> None:
    assert keys(retriever, exclude_own_track=True) == [
        "songs/two/copy",
        "other/one/near",
        "songs/two/near",
    ]
    assert keys(retriever, exclude_tracks=["one"]) == ["songs/two/copy", "songs/two/near"]
    assert keys(retriever, where="corpus = 'other'") == ["other/one/near"]
    assert keys(retriever, where="key = 'songs/one/bass' OR label = 'keys'") == ["songs/one/piano"]
    assert keys(retriever, per_track=1) == [  # itself takes no place of its track
        "songs/two/copy",
        "other/one/near",
        "songs/one/piano",
    ]


def test_bad_examples(retriever: StemRetriever) -> None:
    examples: list[tuple[Any, dict[str, Any], str]] = [
        ("songs/one/basss", {}, r"'songs/one/basss' is neither .*songs/one/bass"),
        ("songs/one/bass' OR '1' = '1", {}, "is neither the key"),
        ("songs/one/bass", {"k": 6}, r"k = 6; expected 1…5"),
        ("songs/one/bass", {"where": "categry = 'keys'"}, "^the filter \"categry = 'keys'\" is"),
        (np.zeros(32_000, np.float32), {}, r"the example of 2\.0 s is silent"),
        (Path("/nowhere/example.wav"), {}, "/nowhere/example.wav"),
    ]
    for example, options, message in examples:
        with pytest.raises(ValueError, match=message):
            retriever.query_by_stem(example, **{"k": 1, **options})
