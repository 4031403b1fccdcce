from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ml import kinds
from ml.artifacts import ArtifactError, DataLayout, read_manifest
from ml.parquet import read_table
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.embeddings.files import Embeddings, read_embeddings, vectors_of
from ml.tracks import CorpusError


def by_stem(embeddings: Embeddings) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Gallery and query vectors by stem id."""
    gallery, queries = (
        dict(zip(table["stem_id"].to_pylist(), vectors_of(table), strict=True))
        for table in (embeddings.gallery, embeddings.queries)
    )
    return gallery, queries


def unit(values: dict[int, float]) -> np.ndarray:
    vector = np.zeros(40)
    for band, value in values.items():
        vector[band] = value
    return vector / np.linalg.norm(vector)


@pytest.fixture
def three_stems(write_corpus: Any, make_sine: Any) -> None:
    write_corpus(
        "sines",
        {
            "a": {
                "low": ("bass", make_sine(3, 2.5)),
                "mid": ("guitar > lead guitar", make_sine(9, 2.5)),
                "high": ("", make_sine(20, 2.5, level=0.1)),
            }
        },
    )


@pytest.mark.usefixtures("three_stems")
def test_a_query_is_the_mix_without_its_target(layout: DataLayout, band_model: Any) -> None:
    (artifact,) = embed_corpus("sines", [band_model()], layout, {})
    gallery, queries = by_stem(read_embeddings(layout, "id-bands", "sines"))
    assert gallery["a/low"] == pytest.approx(unit({3: 1}), abs=1e-4)
    assert queries["a/low"] == pytest.approx(unit({9: 4, 20: 1}), abs=1e-4)
    assert queries["a/mid"] == pytest.approx(unit({3: 4, 20: 1}), abs=1e-4)
    assert queries["a/high"] == pytest.approx(unit({3: 1, 9: 1}), abs=1e-4)
    assert artifact.summary["queries"] == artifact.summary["gallery"] == 3
    assert artifact.summary["chunks"] == 9  # 2.5 s: chunks at 0, 1 and 1.5 s


@pytest.mark.usefixtures("three_stems")
def test_conditioning_decides_the_text(
    layout: DataLayout, band_model: Any, label_vectors: dict[str, np.ndarray]
) -> None:
    vectors = {**label_vectors, "lead guitar": np.eye(40, dtype=np.float32)[30]}
    model = band_model(phase="jepa", condition_weight=1e9)
    expected = {
        "fine": {"a/low": "bass", "a/mid": "lead guitar", "a/high": "music"},
        "coarse": {"a/low": "bass", "a/mid": "guitar", "a/high": "music"},
        "none": dict.fromkeys(("a/low", "a/mid", "a/high"), "music"),
    }
    for conditioning in expected:
        (artifact,) = embed_corpus("sines", [model], layout, vectors, conditioning=conditioning)
        assert not artifact.reused
    for conditioning, texts in expected.items():  # all are kept, in one artifact
        embeddings = read_embeddings(layout, model.model_id, "sines", conditioning)
        table = embeddings.queries
        assert (
            dict(zip(table["stem_id"].to_pylist(), table["label"].to_pylist(), strict=True))
            == texts
        )
        _, queries = by_stem(embeddings)
        for stem_id, text in texts.items():
            assert queries[stem_id] == pytest.approx(vectors[text], abs=1e-3)
        (artifact,) = embed_corpus("sines", [model], layout, vectors, conditioning=conditioning)
        assert artifact.reused


@pytest.mark.usefixtures("three_stems")
def test_only_what_is_stale_is_computed_and_frontends_are_shared(
    layout: DataLayout, band_model: Any
) -> None:
    first, second = band_model("one"), band_model("two")
    frontend = type(first.log_mel)
    embed_corpus("sines", [first], layout, {})
    frontend.calls = 0
    artifacts = embed_corpus("sines", [first, second, band_model("three")], layout, {})
    assert [a.reused for a in artifacts] == [True, False, False]
    assert frontend.calls == 2  # one batch of stems, one of mixes, for both models
    one, two = (read_embeddings(layout, i, "sines") for i in ("id-one", "id-two"))
    assert one.gallery.equals(two.gallery)
    assert one.queries.equals(two.queries)


@pytest.mark.usefixtures("three_stems")
def test_batches_do_not_matter(layout: DataLayout, band_model: Any) -> None:
    embed_corpus("sines", [band_model("one")], layout, {}, batch_chunks=2)
    embed_corpus("sines", [band_model("two")], layout, {})
    one, two = (by_stem(read_embeddings(layout, i, "sines")) for i in ("id-one", "id-two"))
    for left, right in zip(one, two, strict=True):
        for stem_id, vector in left.items():
            assert vector == pytest.approx(right[stem_id], abs=1e-6)


def test_silence_is_left_out_and_counted(
    write_corpus: Any, make_sine: Any, layout: DataLayout, band_model: Any
) -> None:
    half = np.concatenate([make_sine(5, 1.0), np.zeros(16_000, np.float32)])
    short = np.concatenate([make_sine(5, 0.15), np.zeros(24_000, np.float32)])
    write_corpus(
        "sparse",
        {
            "pair": {"half": ("bass", half), "whole": ("piano", make_sine(8, 2.0))},
            "alone": {"one": ("bass", make_sine(5, 2.0))},
            "blip": {"short": ("drums", short), "whole": ("piano", make_sine(8, 2.0))},
            "brief": {"a": ("bass", make_sine(2, 0.5)), "b": ("piano", make_sine(6, 0.5))},
        },
    )
    (artifact,) = embed_corpus("sparse", [band_model()], layout, {})
    assert artifact.summary["gallery"] == 6
    assert artifact.summary["silent_stems"] == 1  # blip/short sounds for less than 0.25 s
    assert artifact.summary["silent_mixes"] == 2  # alone/one; without blip/whole only a blip
    gallery, queries = by_stem(read_embeddings(layout, "id-bands", "sparse"))
    assert set(queries) == {"pair/half", "pair/whole", "brief/a", "brief/b"}
    assert gallery["pair/half"] == pytest.approx(unit({5: 1}), abs=1e-4)
    chunks = read_table(layout.embeddings("id-bands", "sparse") / "chunks.parquet")
    starts = dict.fromkeys(chunks["stem_id"].to_pylist(), 0)
    for stem_id in chunks["stem_id"].to_pylist():
        starts[stem_id] += 1
    assert starts["pair/half"] == 1
    assert starts["pair/whole"] == 2
    assert starts["brief/a"] == 1
    assert np.linalg.norm(vectors_of(chunks), axis=1) == pytest.approx(1, abs=1e-6)


def test_only_the_test_split_by_default(
    write_corpus: Any, make_sine: Any, layout: DataLayout, band_model: Any
) -> None:
    track = {"a": ("bass", make_sine(2, 1.0)), "b": ("piano", make_sine(6, 1.0))}
    root = write_corpus("split", {"one": track, "two": track})
    csv = root / "corpus.csv"
    lines = csv.read_text().splitlines()
    held_out = [line + "test" if line.startswith("two") else line for line in lines]
    csv.write_text("\n".join(held_out) + "\n")
    from ml.corpora.corpus import open_corpus
    from ml.corpora.table import build_corpus_tracks

    build_corpus_tracks("split", open_corpus("manifest", csv), layout)
    (artifact,) = embed_corpus("split", [band_model()], layout, {})
    assert artifact.summary["tracks"] == 1
    with pytest.raises(CorpusError, match="valid"):
        embed_corpus("split", [band_model()], layout, {}, splits=["valid"])


def test_seen_tracks_are_named_by_id_and_by_content(
    write_corpus: Any, make_sine: Any, layout: DataLayout, band_model: Any
) -> None:
    def track(band: int) -> dict[str, Any]:
        return {"a": ("bass", make_sine(band, 1.0)), "b": ("piano", make_sine(30, 1.0, band / 99))}

    write_corpus("new", {"one": track(1), "two": track(2), "three": track(3)})
    from ml.corpora.table import read_corpus_tracks

    table = read_corpus_tracks(layout, "new")
    hashes = dict(zip(table["stem_id"], table["content_hash"], strict=True))
    seen = [
        {"corpus": "new", "track_id": "one", "content_hash": None},
        {"corpus": "old", "track_id": "other name", "content_hash": hashes["three/b"]},
        {"corpus": "old", "track_id": "two", "content_hash": "something else"},
    ]
    embed_corpus("new", [band_model(training_tracks=seen)], layout, {})
    folder = layout.embeddings("id-bands", "new")
    manifest = read_manifest(folder, kinds.EMBEDDINGS)
    assert manifest["seen_tracks"] == ["one", "three"]


@pytest.mark.usefixtures("three_stems")
def test_bad_input(
    layout: DataLayout, band_model: Any, label_vectors: dict[str, np.ndarray]
) -> None:
    jepa = band_model(phase="jepa")
    with pytest.raises(ValueError, match="one of: fine, coarse, none"):
        embed_corpus("sines", [jepa], layout, label_vectors, conditioning="rough")
    with pytest.raises(ValueError, match="'lead guitar'"):
        embed_corpus("sines", [jepa], layout, label_vectors)
    with pytest.raises(ArtifactError, match="3 dimensions, but model bands"):
        embed_corpus("sines", [jepa], layout, {"music": np.ones(3, np.float32)})
    with pytest.raises(ArtifactError, match="manifest"):
        embed_corpus("absent", [jepa], layout, label_vectors)
    with pytest.raises(ArtifactError, match="stems embed sines"):
        read_embeddings(layout, "id-bands", "sines")
    assert not layout.embeddings("id-bands", "sines").exists()
