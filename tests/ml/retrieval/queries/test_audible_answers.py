"""What a person gets of a home: places that sound, and one of the recordings of one thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ml.artifacts import DataLayout
from ml.corpora.corpus import open_corpus
from ml.corpora.table import build_corpus_tracks
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.queries.candidates import Candidate
from ml.retrieval.queries.retriever import StemRetriever
from ml.retrieval.queries.stem_files import StemFiles
from ml.retrieval.tables.publish import database_uri, publish_corpus

Songs = dict[str, dict[str, tuple[str, np.ndarray]]]


@pytest.fixture
def open_songs(write_corpus: Any, layout: DataLayout, band_model: Any) -> Any:
    """Publishes corpora of songs, of which some have a title, and opens what answers."""

    def open_(corpora: dict[str, Songs], titled: Sequence[str] = ()) -> StemRetriever:
        for name, songs in corpora.items():
            csv = write_corpus(name, songs) / "corpus.csv"
            for path in csv.parent.rglob("*.wav"):  # as PCM, which holds no date
                soundfile.write(path, *soundfile.read(path), subtype="PCM_16")
            heading, *lines = csv.read_text().splitlines()
            titles = [line.split(",")[0] if name in titled else "" for line in lines]
            rows = [f"{line},{title}" for line, title in zip(lines, titles, strict=True)]
            csv.write_text("\n".join([f"{heading},title", *rows]) + "\n")
            build_corpus_tracks(name, open_corpus("manifest", csv), layout)
            embed_corpus(name, [band_model()], layout, {})
            publish_corpus(layout, "id-bands", name)
        uri = database_uri(layout, "id-bands")
        return StemRetriever(band_model(), uri, files=StemFiles(layout))

    return open_


def with_variants(found: Sequence[Candidate]) -> list[tuple[str, ...]]:
    return [(c.key, *c.variants) for c in found]


def test_the_best_place_is_one_that_mostly_sounds_from_its_first_sound_on(
    open_songs: Any, make_sine: Any
) -> None:
    """Chunks of 1 s: the first fits wholly but sounds for 0.3 s; the second begins 0.4 s late."""
    fits, other = make_sine(9, 0.3), make_sine(9, 0.6, 0.1) + make_sine(20, 0.6, 0.02)
    waveform = np.zeros(32_000, np.float32)
    waveform[: len(fits)] = fits
    waveform[22_400:] = other
    retriever = open_songs({"songs": {"one": {"piano": ("piano", waveform)}}})
    mix = make_sine(9, 3.0)
    (found,) = retriever.query(mix, k=1)
    assert (found.best_start_s, found.mix_start_s) == (1.4, 0.4)
    by_vectors = StemRetriever(retriever.model, retriever.tables)
    assert by_vectors.query(mix, k=1)[0].best_start_s == 0.0
    Path(found.audio).unlink()  # what cannot be heard is found all the same
    assert retriever.query(mix, k=1)[0].best_start_s == 0.0


def test_recordings_of_one_thing_are_one_answer(
    open_songs: Any, make_sine: Any, layout: DataLayout
) -> None:
    """Of one title the same stem, however it sounds; without a title what is nearly equal."""
    bass, near, far = make_sine(4, 2.0), make_sine(4, 2.0, 0.1), make_sine(5, 2.0)
    near[:1600] = 0
    corpora = {
        "plain": {"one": {"bass": ("bass", bass), "low": ("bass", make_sine(6, 2.0))}},
        "coloured": {"one": {"bass": ("bass", far)}},
        "mine": {"one": {"take": ("bass", near), "bass": ("bass", make_sine(7, 2.0))}},
        "copies": {"two": {"stem": ("bass", bass)}},
    }
    retriever = open_songs(corpora, titled=["plain", "coloured"])
    asked = make_sine(4, 1.0) + make_sine(5, 1.0, 0.1) + make_sine(7, 1.0, 0.05)
    found = retriever.query(asked, k=4)
    assert with_variants(found) == [
        ("copies/two/stem", "plain/one/bass", "coloured/one/bass"),
        ("mine/one/take",),
        ("mine/one/bass",),
        ("plain/one/low",),
    ]
    assert [c.rank for c in found] == [1, 2, 3, 4]
    assert len(retriever.query(asked, k=6, variants=True)) == 6
    like = retriever.query_by_stem("plain/one/bass", k=4)
    assert sorted(with_variants(like)) == [
        ("mine/one/bass",),
        ("mine/one/take",),
        ("plain/one/low",),
    ]
    (layout.tracks("mine") / "manifest.json").write_text("{")  # then each by itself
    assert len(retriever.query(asked, k=6)) == 6


def test_nearly_equal_vectors_of_one_song_and_label_are_one_answer(
    open_songs: Any, make_sine: Any
) -> None:
    near = make_sine(4, 2.0, 0.1)
    retriever = open_songs(
        {
            "songs": {"one": {"bass": ("bass", make_sine(4, 2.0))}},
            "remastered": {
                "one": {"b": ("bass", near), "synth": ("synth", 0.9 * near)},
                "two": {"b": ("bass", 0.8 * near)},
            },
        }
    )
    found = with_variants(retriever.query(make_sine(4, 1.0), k=4))
    assert sorted(sorted(keys) for keys in found) == [
        ["remastered/one/b", "songs/one/bass"],
        ["remastered/one/synth"],
        ["remastered/two/b"],
    ]
    (best, *_) = retriever.query(make_sine(4, 1.0), k=1)  # the wanted number, though two are one
    assert len(best.variants) <= 1
