from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from ml.artifacts import DataLayout
from ml.metrics import RETRIEVAL
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.evaluation.controls import swap_mixes
from ml.retrieval.evaluation.evaluate import evaluate_retrieval
from ml.retrieval.evaluation.ranks import Gallery, Queries
from ml.scores.files import read_scores
from ml.scores.text import swapped_notes, table_lines

SWAPPED, LOSS = "retrieval-swapped", "retrieval-swapped-loss"


def swap(
    make_gallery: Callable[..., Gallery], tracks: Sequence[str], asked: Sequence[str], seed: int = 0
) -> dict[int, int]:
    """Target → the stem that its query's mix lacks."""
    gallery = make_gallery(asked, asked, tracks)
    targets = np.arange(len(asked))
    queries = Queries(targets=targets, asked=np.array(asked, dtype=object))
    kept, swapped = swap_mixes(gallery, queries, seed)
    assert np.array_equal(targets[kept], swapped.targets)
    assert list(swapped.asked) == [asked[i] for i in swapped.targets]
    assert swapped.mixes is not None
    return dict(zip(swapped.targets.tolist(), swapped.mixes.tolist(), strict=True))


def test_two_tracks_exchange_their_mixes_text_by_text(make_gallery: Any) -> None:
    tracks = ["a", "a", "a", "b", "b", "b"]
    asked = ["bass", "drums", "flute", "drums", "bass", "tuba"]
    assert swap(make_gallery, tracks, asked) == {0: 4, 4: 0, 1: 3, 3: 1}


def test_a_track_with_more_queries_for_a_text_takes_the_others_mixes_in_turn(
    make_gallery: Any,
) -> None:
    tracks, asked = ["a", "a", "a", "b", "b"], ["voice"] * 5
    assert swap(make_gallery, tracks, asked) == {0: 3, 1: 4, 2: 3, 3: 0, 4: 1}


@pytest.mark.parametrize("seed", range(5))
def test_every_mix_is_of_another_track_and_was_asked_for_the_same(
    make_gallery: Any, seed: int
) -> None:
    random = np.random.default_rng(seed)
    tracks = [f"t{i}" for i in random.integers(9, size=80)]
    asked = [f"l{i}" for i in random.integers(6, size=80)]
    made = swap(make_gallery, tracks, asked, seed)
    assert made == swap(make_gallery, tracks, asked, seed)
    assert made != swap(make_gallery, tracks, asked, seed + 1)
    assert all(tracks[i] != tracks[j] and asked[i] == asked[j] for i, j in made.items())
    shared = [i for i in range(80) if any(tracks[j] != tracks[i] for j in _same(asked, i))]
    assert sorted(made) == shared
    # for each text a derangement of the tracks
    given = {(asked[i], tracks[i]): tracks[j] for i, j in made.items()}
    for text in set(asked):
        own, others = zip(*((t, o) for (a, t), o in given.items() if a == text), strict=True)
        assert sorted(own) == sorted(others)


def _same(asked: Sequence[str], i: int) -> list[int]:
    return [j for j, text in enumerate(asked) if text == asked[i]]


@pytest.mark.parametrize("asked", [["bass", "flute"], []])
def test_without_a_text_in_two_tracks_there_are_no_swapped_queries(
    make_gallery: Any, asked: list[str]
) -> None:
    assert swap(make_gallery, ["a", "b"][: len(asked)], asked) == {}


def rows_of(layout: DataLayout, evaluation: str, model: str) -> dict[str, dict[str, Any]]:
    rows = read_scores(layout, evaluation=evaluation)
    return {row["metric"]: row for row in rows if row["model"] == model}


@pytest.mark.usefixtures("songs")
def test_who_listens_loses_and_who_does_not_loses_nothing(
    layout: DataLayout, band_model: Any
) -> None:
    vectors = {name: np.eye(40, dtype=np.float32)[b] for name, b in (("bass", 2), ("guitar", 8))}
    listens = band_model("film", phase="jepa", condition_weight=1e5)
    deaf = band_model("deaf", phase="jepa", condition_weight=1e15)  # drowns the mix
    contrastive = band_model("contrastive")
    models = [listens, deaf, contrastive]
    embed_corpus("songs", models, layout, vectors)
    artifact = evaluate_retrieval("songs", layout, {m.name: m.model_id for m in models})
    assert "swapped" not in artifact.summary

    # with the mix of another song the bass of that song is first, the three others tie
    swapped, loss = (rows_of(layout, evaluation, "film") for evaluation in (SWAPPED, LOSS))
    assert set(swapped) == set(loss) == set(RETRIEVAL)
    expected = {
        "recall@1": (0, 100),
        "recall@5": (100, 0),
        "within_label_rank": (100, 100),
        "normalized_rank_mean": (50, 100 * 3 / 8),  # from rank 1 to 4 of 8
        "right_song": (0, 100),
        "right_instrument": (100, 0),
    }
    for metric, (figure, lost) in expected.items():
        assert swapped[metric]["value"] == pytest.approx(figure)
        assert loss[metric]["value"] == pytest.approx(lost)
        assert loss[metric]["low"] <= lost <= loss[metric]["high"]
        assert (loss[metric]["n_queries"], loss[metric]["chance"]) == (8, 0)
    assert rows_of(layout, LOSS, "contrastive")["right_song"]["value"] == 100

    for name in ("deaf", "label"):
        for row in rows_of(layout, LOSS, name).values():
            assert (row["value"], row["low"], row["high"]) == (0, 0, 0)
        own = rows_of(layout, "retrieval", name)
        assert {m: row["value"] for m, row in own.items()} == {
            m: row["value"] for m, row in rows_of(layout, SWAPPED, name).items()
        }
    assert rows_of(layout, LOSS, "label+contrastive")["recall@1"]["value"] == 100
    assert not evaluate_retrieval("songs", layout, {"deaf": "id-deaf"}, seed=1).reused


@pytest.mark.usefixtures("songs")
def test_mixes_of_seen_tracks_are_not_borrowed(layout: DataLayout, band_model: Any) -> None:
    seen = [{"corpus": "songs", "track_id": f"song{i}"} for i in range(3)]
    embed_corpus("songs", [band_model(training_tracks=seen)], layout, {})
    artifact = evaluate_retrieval("songs", layout, {"bands": "id-bands"})
    assert artifact.summary["swapped"] == "mix swapped –: there is one track only"


def test_queries_without_another_mix_are_counted(
    write_corpus: Any, make_sine: Any, layout: DataLayout, band_model: Any
) -> None:
    def bass_and(label: str, band: int) -> dict[str, Any]:
        return {"bass": ("bass", make_sine(2, 1.0)), "other": (label, make_sine(band, 1.0))}

    tracks = {"a": bass_and("tuba", 5), "b": bass_and("gong", 6), "c": bass_and("zither", 7)}
    write_corpus("mixed", tracks)
    embed_corpus("mixed", [band_model()], layout, {})
    evaluate_retrieval("mixed", layout, {"bands": "id-bands"})
    assert rows_of(layout, LOSS, "bands")["recall@1"]["n_queries"] == 3
    said = "mix swapped: 3 queries left out, whose text is asked for in one track only"
    scores = read_scores(layout)
    assert swapped_notes(scores) == [said]
    for made_of_it in (SWAPPED, LOSS):  # no queries of their own
        assert swapped_notes(scores, made_of_it) == []
    lines = table_lines("loss", read_scores(layout, evaluation=LOSS))
    assert lines[0] == "loss, 3 queries, 6 stems, percent"

    unique = {
        name: {k: (f"{k} {name}", w) for k, (_, w) in t.items()} for name, t in tracks.items()
    }
    write_corpus("unique", unique)
    embed_corpus("unique", [band_model()], layout, {})
    artifact = evaluate_retrieval("unique", layout, {"bands": "id-bands"})
    assert artifact.summary["swapped"] == "mix swapped –: no text is asked for in two tracks"
    evaluations = {row["evaluation"] for row in read_scores(layout, corpus="unique")}
    assert not any("swapped" in name for name in evaluations)
