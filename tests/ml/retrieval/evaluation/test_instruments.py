"""Eight songs of two acoustic guitars, an electric one and a bass, embedded by made-up models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ml import kinds
from ml.artifacts import ArtifactError, DataLayout, finish, write_json
from ml.parquet import read_table, write_table
from ml.retrieval.embeddings.files import GALLERY, StemRow, queries_name, query_table, stem_table
from ml.retrieval.evaluation.evaluate import evaluate_retrieval
from ml.retrieval.evaluation.instruments import (
    SHARES,
    answer_kinds,
    evaluate_instruments,
    kind_chance,
    read_confusion,
    read_instruments,
    share_interval,
)
from ml.retrieval.evaluation.ranks import Gallery, gallery_of
from ml.scores.files import SCORE_COLUMNS, read_scores
from ml.scores.intervals import TrackBootstrap

SONGS = 8
LABELS = (
    ("guitar", "acoustic guitar"),
    ("guitar", "acoustic guitar"),
    ("guitar", "electric guitar"),
    ("bass",),
)
FINE = [labels[-1] for labels in LABELS]


class Words:
    """Known words are axes; "bass" and "bass guitar" are near."""

    name, dim, fingerprint = "words", 4, "0" * 64

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        axes = {"acoustic guitar": 0, "bass": 1, "bass guitar": 1, "electric guitar": 2}
        vectors = np.zeros((len(texts), 4), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row, axes.get(text, 3)] = 1
        return vectors


def stem_rows(labels: Sequence[tuple[str, ...]] = LABELS, songs: int = SONGS) -> list[StemRow]:
    return [
        StemRow(
            stem_id=f"song{song}/{place}",
            track_id=f"song{song}",
            corpus="songs",
            split="test",
            label=own[-1] if own else "music",
            category=own[0] if own else None,
            labels=own,
            duration_s=1.0,
            audio="",
        )
        for song in range(songs)
        for place, own in enumerate(labels)
    ]


def rows_and_gallery(
    labels: Sequence[tuple[str, ...]], songs: int
) -> tuple[list[dict[str, Any]], Gallery]:
    rows = stem_rows(labels, songs)
    gallery = gallery_of(stem_table(rows, np.zeros((len(rows), 1), dtype=np.float32)), {})
    return [{**vars(row)} for row in rows], gallery


def embed(
    layout: DataLayout, name: str, rows: Sequence[StemRow], gallery: np.ndarray, queries: Any = None
) -> None:
    folder = layout.embeddings(f"id-{name}", "songs")
    vectors = gallery.astype(np.float32)
    write_table(stem_table(rows, vectors), folder / GALLERY)
    asked = vectors if queries is None else queries.astype(np.float32)
    labels = [row.label for row in rows]
    write_table(query_table(rows, labels, asked), folder / queries_name("fine"))
    finish(
        folder,
        {"corpus": "songs", "model": name, "conditionings": ["fine"]},
        kinds.EMBEDDINGS,
        summary={},
        dim=vectors.shape[1],
        seen_tracks=[],
    )


@pytest.fixture
def analysed(layout: DataLayout) -> DataLayout:
    """The four models of the tests, analysed."""
    rows = stem_rows()
    one, stems = np.eye(len(rows)), len(rows)
    songs = np.eye(SONGS)[np.repeat(np.arange(SONGS), len(LABELS))]
    instruments = np.eye(3)[np.tile([0, 0, 1, 2], SONGS)]
    wrong = np.eye(stems)[np.roll(np.arange(stems), 1)]
    embed(layout, "perfect", rows, one)
    embed(layout, "track", rows, songs)
    embed(layout, "instrument", rows, instruments)
    embed(layout, "wrong", rows, one, wrong)
    names = ("perfect", "track", "instrument", "wrong")
    write_json(
        layout.runs / "run" / "model" / "manifest.json",
        {"model_id": "id-perfect", "training_labels": ["acoustic guitar", "bass guitar", "guitar"]},
    )
    evaluate_retrieval("songs", layout, {name: f"id-{name}" for name in names}, resamples=100)
    evaluate_instruments("songs", layout, Words(), resamples=100)
    return layout


def bars(layout: DataLayout, model: str) -> dict[str, dict[str, float]]:
    """Per instrument the shares that are not 0."""
    return {
        row["instrument"]: {name: row[name] for name in SHARES if row[name]}
        for row in read_instruments(layout, "songs")
        if row["model"] == model
    }


def scores(layout: DataLayout, model: str) -> dict[str, dict[str, Any]]:
    rows = read_scores(layout, evaluation="instruments")
    return {row["metric"]: row for row in rows if row["model"] == model}


def test_perfect_embeddings_give_full_bars(analysed: DataLayout):
    assert bars(analysed, "perfect") == {label: {"right_stem": 100} for label in set(FINE)}
    assert scores(analysed, "perfect")["share/right_stem"]["value"] == 100
    rows = read_confusion(analysed, "songs")
    assert not [row for row in rows if row["model"] == "perfect"]


def test_track_alone_finds_the_first_other_stem_of_the_track(analysed: DataLayout):
    # all stems of a song tie, which counts against the query: the first other one is nearest
    assert bars(analysed, "track") == {
        "acoustic guitar": {"right_track_right_instrument": 100},
        "electric guitar": {"right_track_right_category": 100},
        "bass": {"right_track_wrong_category": 100},
    }
    confusion = {
        (row["category"], row["nearest_category"]): (row["queries"], row["share"])
        for row in read_confusion(analysed, "songs")
        if row["model"] == "track"
    }
    assert confusion == {("bass", "guitar"): (8, 100), ("guitar", "guitar"): (24, 100)}


def test_instrument_alone_finds_it_in_the_first_song(analysed: DataLayout):
    found = bars(analysed, "instrument")
    assert found["electric guitar"] == found["bass"] == {"other_track_right_instrument": 100}
    # of the first song's two acoustic guitars each finds the other
    assert found["acoustic guitar"] == {
        "right_track_right_instrument": 12.5,
        "other_track_right_instrument": 87.5,
    }


def test_the_shares_of_every_bar_sum_to_100(analysed: DataLayout):
    for row in read_instruments(analysed, "songs"):
        assert sum(row[share] for share in SHARES) == pytest.approx(100)
        assert row["queries"] == (16 if row["instrument"] == "acoustic guitar" else 8)
    for model in ("perfect", "track", "instrument", "wrong"):
        found = scores(analysed, model)
        for column in ("value", "chance"):
            total = sum(found[f"share/{name}"][column] for name in SHARES)
            assert total == pytest.approx(100)


def test_groups_follow_from_the_training_labels(analysed: DataLayout):
    found = scores(analysed, "perfect")
    assert {name: row["n_queries"] for name, row in found.items() if "recall@10/" in name} == {
        "recall@10/same-text": 16,
        "recall@10/other-words": 8,
        "recall@10/zero-shot": 8,
    }
    assert found["recall@1/zero-shot"]["value"] == 100
    assert found["recall@1/zero-shot"]["chance"] == pytest.approx(100 / 32)
    assert found["normalized_rank_mean/zero-shot"]["value"] == pytest.approx(100 / 32)
    assert list(found["recall@1/zero-shot"]) == list(SCORE_COLUMNS)
    rows = {r["instrument"]: r for r in read_instruments(analysed, "songs")}
    assert rows["bass"]["presence"] == "other-words"
    assert rows["bass"]["nearest_training_label"] == "bass guitar"
    assert rows["electric guitar"]["presence"] == "zero-shot"
    assert rows["acoustic guitar"]["similarity"] == 1
    # models without training labels of their own are grouped alike
    assert scores(analysed, "track")["recall@1/zero-shot"]["n_queries"] == 8


def test_either_of_two_stems_of_a_label_is_right(analysed: DataLayout):
    track = scores(analysed, "track")
    assert track["share/right_stem"]["value"] == 0
    assert track["recall@1/or-same-label"]["value"] == 50  # the two acoustic guitars of four stems
    assert track["right_category"]["value"] == track["right_category_and_track"]["value"] == 75
    # of 32 stems: itself, and for half of the queries its twin
    assert track["recall@1/or-same-label"]["chance"] == pytest.approx(100 * 1.5 / 32)


def test_chance_is_the_mean_over_all_possible_answers():
    random = np.random.default_rng(0)
    labels = [LABELS[i] if i < 4 else () for i in random.integers(0, 5, size=6)]
    rows, stems = rows_and_gallery(labels, songs=5)
    targets = np.array([i for i, row in enumerate(rows) if row["labels"]])
    chance = kind_chance(stems, targets)
    np.testing.assert_allclose(chance.sum(axis=1), 100)
    for query, target in enumerate(targets[:3]):
        kinds = [kind_by_hand(rows[target], row) for row in rows]
        for kind in range(7):
            assert chance[query, kind] == pytest.approx(100 * kinds.count(kind) / len(rows))


def kind_by_hand(target: dict[str, Any], nearest: dict[str, Any]) -> int:
    if target["stem_id"] == nearest["stem_id"]:
        return 0
    first = 1 if target["track_id"] == nearest["track_id"] else 4
    if nearest["labels"] and target["label"] == nearest["label"]:
        return first
    return first + (1 if nearest["labels"] and target["category"] == nearest["category"] else 2)


def test_unlabelled_stems_are_of_no_kind_and_never_right():
    _, stems = rows_and_gallery([(), (), ("bass",)], songs=1)
    kinds = answer_kinds(stems, np.array([0, 2, 2]), np.array([1, 0, 2]))
    assert kinds.tolist() == [-1, 3, 0]


def test_it_is_reused_until_an_input_changes(analysed: DataLayout):
    again = evaluate_instruments("songs", analysed, Words(), resamples=100)
    assert again.reused
    assert again.summary["queries zero-shot"] == 8
    assert again.summary["queries with another stem of the label in the track"] == 16
    changed = evaluate_instruments("songs", analysed, Words(), threshold=0.5, resamples=100)
    assert not changed.reused
    path = analysed.runs / "run" / "model" / "manifest.json"
    write_json(path, {"model_id": "id-perfect", "training_labels": ["electric guitar"]})
    evaluate_instruments("songs", analysed, Words(), resamples=100)
    assert scores(analysed, "perfect")["recall@1/same-text"]["n_queries"] == 8


def test_nothing_found_is_not_certain(analysed: DataLayout):
    none = scores(analysed, "wrong")["recall@1/zero-shot"]
    # eight songs: 31 % or less would give no hit in 2.5 % of the cases or more
    assert (none["value"], none["low"]) == (0, 0)
    assert (1 - none["high"] / 100) ** SONGS == pytest.approx(0.025)
    everything = scores(analysed, "perfect")["share/right_stem"]
    assert (everything["value"], everything["high"]) == (100, 100)
    assert everything["low"] == pytest.approx(100 - none["high"])
    bootstrap = TrackBootstrap(["a", "a", "b"], resamples=50)
    mixed = np.array([0.0, 100.0, 0.0])
    assert share_interval(bootstrap, mixed) == bootstrap.interval(mixed)
    alone = share_interval(TrackBootstrap(["a", "a"], resamples=50), np.zeros(2))
    assert np.isnan(alone.high)


def test_what_is_missing_or_stale_is_named(analysed: DataLayout, layout: DataLayout):
    with pytest.raises(ArtifactError, match="stems evaluate retrieval --corpus nowhere"):
        evaluate_instruments("nowhere", layout, Words())
    with pytest.raises(ArtifactError, match="evaluate instruments --corpus nowhere"):
        read_instruments(layout, "nowhere")
    rows = stem_rows(songs=3)
    embed(layout, "perfect", rows, np.eye(len(rows)))
    with pytest.raises(ArtifactError, match="20 stems of the scores, 'song3/0' among them"):
        evaluate_instruments("songs", analysed, Words(), seed=1)
    folder = layout.scores("instruments", "songs")
    (folder / "instruments.parquet").write_bytes(b"torn")
    with pytest.raises(ArtifactError, match="damaged"):
        read_instruments(layout, "songs")
    assert read_table(folder / "confusion.parquet").num_rows
