from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ml.artifacts import ArtifactError, DataLayout
from ml.parquet import read_table
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.embeddings.files import queries_name, unit_rows, vectors_of
from ml.retrieval.embeddings.passes import query_chunks
from ml.retrieval.embeddings.source import open_source
from ml.retrieval.evaluation.alignment import (
    ChunkRanks,
    alignment_scores,
    chunk_ranks,
    evaluate_alignment,
    offset_rows,
    read_offsets,
)
from ml.scores.files import SCORE_COLUMNS, read_scores

PLACES = np.arange(6)


def ranked(queries: np.ndarray, chunks: np.ndarray) -> ChunkRanks:
    found = chunk_ranks(unit_rows(queries), PLACES, unit_rows(chunks), PLACES)
    assert found is not None
    return found


def means(found: list[tuple[str, ChunkRanks]]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in alignment_scores(found, 100, 0)}


def by_offset(found: list[tuple[str, ChunkRanks]]) -> dict[float, float]:
    return {row["offset_s"]: row["value"] for row in offset_rows(found, 2.0, 100, 0)}


def test_a_perfect_model_puts_its_own_time_first() -> None:
    found = [("a", ranked(np.eye(6), np.eye(6)))]
    assert means(found) == {"aligned_first": 100, "aligned_rank": 0}
    assert by_offset(found)[0.0] == 0
    assert set(by_offset(found)) == set(2.0 * np.arange(-5, 6))


def test_a_collapsed_model_is_last_everywhere() -> None:
    found = [("a", ranked(np.ones((6, 3)), np.ones((6, 3))))]
    assert means(found) == {"aligned_first": 0, "aligned_rank": 100}
    assert set(by_offset(found).values()) == {100}


def test_a_model_that_is_late_has_its_dip_beside_zero() -> None:
    chunks = np.random.default_rng(0).standard_normal((6, 50))
    late = np.roll(chunks, -1, axis=0)  # query chunk i is like stem chunk i + 1
    found = by_offset([("a", ranked(late, chunks))])
    assert found[2.0] == 0
    assert found[0.0] > 20


def test_unrelated_vectors_are_at_chance() -> None:
    random = np.random.default_rng(1)
    draw = lambda: random.standard_normal((6, 8))  # noqa: E731
    found = [(f"track{i % 50}", ranked(draw(), draw())) for i in range(400)]
    scores = {row["metric"]: row for row in alignment_scores(found, 200, 0)}
    for metric, chance in (("aligned_first", 100 / 6), ("aligned_rank", 50)):
        row = scores[metric]
        assert row["chance"] == pytest.approx(chance)
        assert row["n_queries"] == 2400
        assert row["low"] < chance < row["high"]
    assert all(abs(value - 50) < 6 for value in by_offset(found).values())


def test_ranks_agree_with_a_sort() -> None:
    random = np.random.default_rng(2)
    queries, chunks = random.standard_normal((2, 6, 5))
    found = ranked(queries, chunks)
    cosines = unit_rows(queries) @ unit_rows(chunks).T
    for query in range(6):
        for chunk in range(6):
            place = int(np.flatnonzero(np.argsort(-cosines[query]) == chunk)[0])
            assert found.ranks[query, chunk] == pytest.approx(100 * place / 5)


def test_only_times_that_both_have_are_asked() -> None:
    vectors = unit_rows(np.eye(4))
    found = chunk_ranks(vectors, np.array([0, 1, 5, 9]), vectors[:3], np.array([1, 5, 7]))
    assert found is not None
    assert found.offsets.tolist() == [[0, 4, 6], [-4, 0, 2]]
    assert chunk_ranks(vectors, PLACES[:4], vectors[:1], np.array([0])) is None
    assert chunk_ranks(vectors, PLACES[:4], vectors[:2], np.array([8, 9])) is None


@pytest.fixture
def songs(write_corpus: Any, make_sine: Any) -> None:
    """Songs whose two stems play the same tones, another in each second; 3.5 s long."""

    def stem(song: int, level: float) -> np.ndarray:
        bands = [3 + song, 9 + song, 15 + song, 21 + song]
        tones = [make_sine(band, 1.0, level) for band in bands]
        return np.concatenate(tones)[:56_000]

    write_corpus(
        "songs",
        {
            f"song{i}": {"bass": ("bass", stem(i, 0.2)), "guitar": ("guitar", stem(i, 0.1))}
            for i in range(3)
        },
    )


@pytest.mark.usefixtures("songs")
def test_chunks_add_up_to_the_queries_of_the_embeddings(
    layout: DataLayout, band_model: Any, label_vectors: dict[str, np.ndarray]
) -> None:
    model = band_model("film", phase="jepa", condition_weight=1e4)
    [artifact] = embed_corpus("songs", [model], layout, label_vectors)
    source = open_source("songs", layout, None)
    found = query_chunks(source, [model], label_vectors, "fine", batch_chunks=3)["id-film"]
    queries = read_table(artifact.path / queries_name("fine"))
    for stem_id, vector in zip(queries["stem_id"].to_pylist(), vectors_of(queries), strict=True):
        chunks = found.vectors[found.stem_ids == stem_id]
        np.testing.assert_allclose(unit_rows(chunks.mean(0, keepdims=True))[0], vector, atol=1e-6)
        assert found.start_s[found.stem_ids == stem_id].tolist() == [0, 1, 2, 2.5]


@pytest.mark.usefixtures("songs")
def test_stems_that_sound_alike_at_a_time_are_aligned(layout: DataLayout, band_model: Any) -> None:
    models = [band_model("untrained"), band_model("long", chunk_s=1.5)]
    embed_corpus("songs", models, layout, {})
    artifact = evaluate_alignment("songs", layout, models, {}, resamples=100)
    rows = {(r["model"], r["metric"]): r for r in read_scores(layout, evaluation="alignment")}
    first = rows["untrained", "aligned_first"]
    assert list(first) == list(SCORE_COLUMNS)
    # the last chunk, 2.5 to 3.5 s, overlaps the one before and is left out
    assert (first["n_queries"], first["n_gallery"]) == (6 * 3, 6)
    assert (first["value"], first["low"], first["high"]) == (100, 100, 100)
    assert first["chance"] == pytest.approx(100 / 3)
    assert rows["untrained", "aligned_rank"]["value"] == 0
    assert rows["long", "aligned_first"]["n_queries"] == 6 * 2
    offsets = [row for row in read_offsets(layout, "songs") if row["model"] == "untrained"]
    assert [row["offset_s"] for row in offsets] == [-2, -1, 0, 1, 2]
    assert [row["chunks"] for row in offsets] == [6, 12, 18, 12, 6]
    assert artifact.summary["stems"] == 6
    assert evaluate_alignment("songs", layout, models, {}, resamples=100).reused
    assert not evaluate_alignment("songs", layout, models, {}, resamples=101).reused


@pytest.mark.usefixtures("songs")
def test_tracks_seen_in_training_are_left_out(layout: DataLayout, band_model: Any) -> None:
    seen = [{"corpus": "songs", "track_id": "song1", "content_hash": None}]
    models = [band_model("one"), band_model("two", training_tracks=seen)]
    embed_corpus("songs", models, layout, {})
    evaluate_alignment("songs", layout, models, {}, resamples=100)
    assert {row["n_gallery"] for row in read_scores(layout, evaluation="alignment")} == {4}


@pytest.mark.usefixtures("songs")
def test_bad_input_is_named(layout: DataLayout, band_model: Any) -> None:
    with pytest.raises(ValueError, match="no models"):
        evaluate_alignment("songs", layout, [], {})
    with pytest.raises(ArtifactError, match="stems embed songs"):
        evaluate_alignment("songs", layout, [band_model()], {})
    model = band_model("long", chunk_s=3.0)
    embed_corpus("songs", [model], layout, {})
    with pytest.raises(ValueError, match=r"sounds in two chunks of 3\.0 s"):
        evaluate_alignment("songs", layout, [model], {})
