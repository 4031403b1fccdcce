from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
import soundfile

from ml.artifacts import ArtifactError, DataLayout
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.embeddings.files import read_embeddings, vectors_of
from ml.retrieval.queries.retriever import StemRetriever
from ml.retrieval.tables.publish import STEM_TABLE, database_uri, publish_corpus
from ml.retrieval.tables.search import StemTables


class OneHotLabels:
    """A label encoder of three words, each a direction."""

    name = "words"
    dim = 40
    fingerprint = "words-1"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        words = {"bass": 3, "piano": 9, "music": 0}
        return np.eye(40, dtype=np.float32)[[words[text] for text in texts]]


@pytest.fixture
def uri(write_corpus: Any, make_sine: Any, layout: DataLayout, band_model: Any) -> str:
    """Two songs; the bass of the second begins after 2 s."""
    late = np.concatenate([np.zeros(32_000, np.float32), make_sine(3, 2.0)])
    moving = np.concatenate([make_sine(15, 2.0), make_sine(16, 2.0)])
    write_corpus(
        "songs",
        {
            "one": {"bass": ("bass", make_sine(4, 4.0)), "piano": ("piano", make_sine(9, 4.0))},
            "two": {"bass": ("bass", late), "piano": ("keys > piano", moving)},
        },
    )
    embed_corpus("songs", [band_model()], layout, {})
    publish_corpus(layout, "id-bands", "songs")
    return database_uri(layout, "id-bands")


@pytest.fixture
def retriever(uri: str, band_model: Any) -> StemRetriever:
    return StemRetriever(band_model(), uri)


def test_finds_a_planted_stem_and_the_place_in_it(retriever: StemRetriever, make_sine: Any) -> None:
    found = retriever.query(make_sine(3, 2.0), "bass", k=4)
    assert [c.rank for c in found] == [1, 2, 3, 4]
    assert (found[0].stem_id, found[0].track_id, found[0].label) == ("two/bass", "two", "bass")
    assert found[0].score == pytest.approx(1, abs=1e-4)
    assert found[0].best_start_s == 2.0
    assert (found[0].key, found[0].category) == ("songs/two/bass", "bass")
    assert (found[0].mix_start_s, found[0].duration_s) == (0.0, 4.0)
    assert Path(found[0].audio).is_file()
    assert sorted((c.score for c in found), reverse=True) == [c.score for c in found]
    (moving,) = retriever.query(make_sine(16, 1.5), k=1)
    assert (moving.stem_id, moving.best_start_s) == ("two/piano", 2.0)


def test_a_mix_may_come_in_many_forms(
    retriever: StemRetriever, make_sine: Any, tmp_path: Path
) -> None:
    low, high = make_sine(4, 2.0), make_sine(9, 1.5)
    total = low.copy()
    total[: len(high)] += high
    path = tmp_path / "low.wav"
    soundfile.write(path, low, 16_000, subtype="FLOAT")
    expected = retriever.embed_mix(total)
    assert retriever.embed_mix([path, high]) == pytest.approx(expected, abs=1e-5)
    assert retriever.embed_mix([str(path), (high, 16_000)]) == pytest.approx(expected, abs=1e-5)
    stereo = np.stack([low * 2, np.zeros_like(low)], axis=1)
    assert retriever.embed_mix((stereo, 16_000)) == pytest.approx(
        retriever.embed_mix(low), abs=1e-5
    )
    double = np.repeat(low, 2)
    assert retriever.embed_mix((double, 32_000)) == pytest.approx(
        retriever.embed_mix(low), abs=0.02
    )


def test_a_path_and_an_array_find_the_same(
    retriever: StemRetriever, make_sine: Any, tmp_path: Path
) -> None:
    mix = make_sine(4, 2.0) + make_sine(15, 2.0)
    path = tmp_path / "mix.wav"
    soundfile.write(path, mix, 16_000, subtype="FLOAT")
    assert retriever.query(path, k=4) == retriever.query(mix, k=4)


def test_equals_the_query_of_the_corpus(
    uri: str, layout: DataLayout, band_model: Any, make_sine: Any
) -> None:
    queries = read_embeddings(layout, "id-bands", "songs").queries
    row = queries["stem_id"].to_pylist().index("one/bass")
    vector = StemRetriever(band_model(), uri).embed_mix(make_sine(9, 4.0))
    assert vector == pytest.approx(vectors_of(queries)[row], abs=1e-5)


def test_filters(retriever: StemRetriever, make_sine: Any) -> None:
    mix = make_sine(3, 2.0)

    def ids(**options: Any) -> list[str]:
        return [c.stem_id for c in retriever.query(mix, k=4, **options)]

    assert set(ids(where="category = 'keys'")) == {"two/piano"}
    assert set(ids(exclude_tracks=["two"])) == {"one/bass", "one/piano"}
    assert len(ids(per_track=1)) == 2
    assert ids(where="label = 'nothing'") == []


def test_the_condition_decides(uri: str, band_model: Any, make_sine: Any) -> None:
    model = band_model(phase="jepa", condition_weight=1e9)
    model.label_encoder = {"name": "words", "dim": 40, "fingerprint": "words-1"}
    retriever = StemRetriever(model, uri, OneHotLabels())
    assert retriever.query(make_sine(20, 2.0), "bass", k=1)[0].stem_id == "two/bass"
    assert retriever.query(make_sine(20, 2.0), "piano", k=1)[0].stem_id == "one/piano"
    assert retriever.embed_mix(make_sine(20, 2.0))[0] == pytest.approx(1)  # "music"
    model.label_encoder = {"name": "words", "dim": 40, "fingerprint": "words-2"}
    with pytest.raises(ArtifactError, match=r"words-1.*words-2"):
        StemRetriever(model, uri, OneHotLabels())


def test_plays_from_where_mix_and_stem_agree(retriever: StemRetriever, make_sine: Any) -> None:
    """The piano of ``two`` moves after 2 s; a mix that moves so after 1 s goes with it there."""
    mix = np.concatenate([make_sine(15, 1.0), make_sine(16, 2.0)])
    (found,) = retriever.query(mix, k=1)
    assert found.stem_id == "two/piano"
    assert found.best_start_s is not None
    assert (found.best_start_s < 2) == (found.mix_start_s == 0)


def test_a_model_that_knows_no_instruments_answers(
    retriever: StemRetriever, make_sine: Any, band_model: Any, uri: str
) -> None:
    assert not retriever.takes_instrument
    assert retriever.query(make_sine(4, 2.0), "flute", k=4) == retriever.query(
        make_sine(4, 2.0), k=4
    )
    assert StemRetriever(band_model(phase="jepa"), uri).takes_instrument


def test_a_table_may_be_given_open(uri: str, band_model: Any, make_sine: Any) -> None:
    for table in (lancedb.connect(uri).open_table(STEM_TABLE), StemTables(uri), Path(uri)):
        assert StemRetriever(band_model(), table).query(make_sine(3, 2.0), k=1)


def test_bad_options(retriever: StemRetriever, make_sine: Any) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"k": 0}, "k = 0"),
        ({"k": 5}, r"expected 1…4"),
        ({"per_track": 0}, "per_track = 0"),
        ({"instrument": "  "}, "blank"),
        ({"where": "categry = 'keys'"}, "categry"),
        ({"where": "category = 'keys"}, "not understood"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            retriever.query(make_sine(3, 2.0), **{"k": 1, **options})


def test_bad_tables(uri: str, band_model: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="stems embed"):
        StemRetriever(band_model(), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(ArtifactError, match=r"id-bands.*id-other"):
        StemRetriever(band_model("other"), uri)
    lancedb.connect(tmp_path / "foreign").create_table(
        STEM_TABLE, [{"stem_id": "a", "vector": [1.0, 2.0]}]
    )
    with pytest.raises(ArtifactError, match="names no model"):
        StemRetriever(band_model(), tmp_path / "foreign")


def test_what_a_label_says_need_not_be_heard(
    write_corpus: Any, make_sine: Any, layout: DataLayout, band_model: Any
) -> None:
    """Hand-worked: bands below 20 are the song part (share 0.6), those above the instrument's."""

    def sound(song: int, instrument: int) -> np.ndarray:
        return make_sine(song, 2.0) + make_sine(instrument, 2.0)

    bass, odd_song = ("keys > bass", sound(5, 30)), ("bass", sound(6, 30))
    stems = {"a": bass, "b": odd_song, "c": ("", sound(5, 30)), "d": ("piano", sound(6, 25))}
    write_corpus("songs", {"one": stems})
    model = band_model()
    model.part_shares = (0.6, 0.4)
    embed_corpus("songs", [model], layout, {})
    publish_corpus(layout, "id-bands", "songs")
    retriever = StemRetriever(model, database_uri(layout, "id-bands"))

    def answer(instrument: str | None, **options: Any) -> dict[str, float]:
        found = retriever.query(sound(5, 25), instrument, k=4, **options)
        return {c.stem_id[-1]: round(c.score, 3) for c in found}

    heard = {"a": 0.6, "c": 0.6, "d": 0.4, "b": 0.0}
    assert answer("bass", uses_labels=False) == answer("xyzzy") == heard
    for asked in ("bass", " Bass ", "bass "):
        assert answer(asked) == {"a": 1.0, "c": 0.6, "b": 0.4, "d": 0.4}
    assert list(answer("keys")) == ["a", "c", "d", "b"]  # a label of any level
    assert answer("bass", per_track=1) == {"a": 1.0}
    assert answer("bass", where="stem_id <> 'one/a'") == {"c": 0.6, "b": 0.4, "d": 0.4}
    assert answer(None) == {"a": 0.775, "c": 0.775, "b": 0.0, "d": 0.0}
