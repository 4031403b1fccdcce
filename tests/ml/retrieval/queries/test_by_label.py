from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ml.artifacts import DataLayout
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.queries.by_label import nearest_labels
from ml.retrieval.queries.retriever import StemRetriever
from ml.retrieval.tables.publish import database_uri, publish_corpus

WORDS: tuple[str, ...] = ("music", "bass", "keys", "piano", "organ", "flute")


class Words:
    """A label encoder: each word a direction, "harmonium" between organ and piano."""

    name = "words"
    dim = len(WORDS)
    fingerprint = "words-1"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        known: dict[str, np.ndarray] = dict(zip(WORDS, np.eye(len(WORDS)), strict=True))
        known["harmonium"] = 0.8 * known["organ"] + 0.6 * known["piano"]
        return np.array([known[text] for text in texts], dtype=np.float32)


@pytest.fixture
def retriever(
    write_corpus: Any, make_sine: Any, layout: DataLayout, band_model: Any
) -> StemRetriever:
    """Three pianos, of which ``b`` is the odd one out; an organ; a bass; and one without label."""
    write_corpus(
        "songs",
        {
            "one": {
                "a": ("keys > piano", make_sine(9, 2.0)),
                "b": ("keys > piano", make_sine(20, 2.0)),
                "c": ("keys > piano", make_sine(9, 2.0, 0.1) + make_sine(20, 2.0, 0.02)),
                "d": ("bass", make_sine(3, 2.0)),
            },
            "two": {
                "e": ("keys > organ", make_sine(9, 2.0)),
                "f": ("", make_sine(30, 2.0)),
            },
        },
    )
    embed_corpus("songs", [band_model()], layout, {})
    publish_corpus(layout, "id-bands", "songs")
    return StemRetriever(band_model(), database_uri(layout, "id-bands"), Words())


def ids(retriever: StemRetriever, text: str, k: int = 6, **filters: Any) -> list[str]:
    return [c.stem_id for c in retriever.query_by_text(text, k, **filters)]


def test_labels_first_then_the_typical_ones(retriever: StemRetriever) -> None:
    found = retriever.query_by_text("piano", 6)
    assert [c.stem_id for c in found[:3]] == ["one/c", "one/a", "one/b"]
    assert [c.score for c in found] == pytest.approx([1, 1, 1, 0, 0, 0])
    assert [c.rank for c in found] == [1, 2, 3, 4, 5, 6]
    assert all(c.mix_start_s is None and c.best_start_s == 0 for c in found)
    assert retriever.query_by_text("piano", 6) == found


def test_a_coarse_word_finds_all_below_it(retriever: StemRetriever) -> None:
    assert set(ids(retriever, "keys", 4)) == {"one/a", "one/b", "one/c", "two/e"}


def test_a_word_between_two_labels(retriever: StemRetriever) -> None:
    found = retriever.query_by_text("harmonium", 4)
    assert [c.label for c in found] == ["organ", "piano", "piano", "piano"]
    assert [c.score for c in found] == pytest.approx([0.8, 0.6, 0.6, 0.6])


def test_a_stem_without_a_label_is_music(retriever: StemRetriever) -> None:
    (found,) = retriever.query_by_text("music", 1)
    assert (found.stem_id, found.score) == ("two/f", pytest.approx(1))


def test_every_stem_is_found_once(retriever: StemRetriever) -> None:
    for word in (*WORDS, "harmonium"):
        assert sorted(ids(retriever, word)) == [f"one/{c}" for c in "abcd"] + ["two/e", "two/f"]


def test_filters(retriever: StemRetriever) -> None:
    assert ids(retriever, "piano", where="category = 'bass'") == ["one/d"]
    assert ids(retriever, "piano", exclude_tracks=["one"]) == ["two/e", "two/f"]
    assert ids(retriever, "piano", per_track=1) == ["one/c", "two/e"]
    assert ids(retriever, "piano", per_track=2) == ["one/c", "one/a", "two/e", "two/f"]
    assert ids(retriever, "keys", per_track=2, k=3) == ["one/c", "one/a", "two/e"]
    assert ids(retriever, "piano", where="label = 'nothing'") == []
    mixed = ids(retriever, "bass", per_track=2)  # one/d by its label, then by others
    assert mixed[0] == "one/d"
    assert sorted(stem.split("/")[0] for stem in mixed) == ["one", "one", "two", "two"]


def test_bad_questions(retriever: StemRetriever) -> None:
    questions: list[tuple[str, dict[str, Any], str]] = [
        (" ", {}, "blank"),
        ("piano", {"k": 7}, r"k = 7; expected 1…6"),
        ("piano", {"per_track": 0}, "per_track"),
        ("piano", {"where": "categry = 'keys'"}, "^the filter \"categry = 'keys'\" is not"),
    ]
    for text, options, message in questions:
        with pytest.raises(ValueError, match=message):
            retriever.query_by_text(text, **{"k": 1, **options})


def test_without_a_label_encoder(retriever: StemRetriever) -> None:
    bare = StemRetriever(retriever.model, retriever.tables)
    with pytest.raises(ValueError, match="bands was trained without a label encoder"):
        bare.query_by_text("piano", 1)


def test_nearest_labels_are_those_of_highest_cosine() -> None:
    known = {text: np.eye(3)[i] for i, text in enumerate(("violin", "cello", "drums"))}
    vector = np.array([0.6, 0.8, 0.0])
    assert nearest_labels(vector, known, 2) == [("cello", 0.8), ("violin", 0.6)]
    assert nearest_labels(vector, {}) == []
    assert nearest_labels(np.ones(3), known, 1) == [("cello", 1.0)]  # equal ones: by alphabet
