from __future__ import annotations

import numpy as np

from ml.retrieval.queries.candidates import Place, places_alone, places_with_mix
from ml.retrieval.queries.mix import ChunkVectors
from ml.retrieval.tables.search import StemChunks


def stem(vectors: np.ndarray) -> StemChunks:
    return StemChunks(start_s=2.0 * np.arange(len(vectors)), vectors=vectors)


def mix(vectors: np.ndarray) -> ChunkVectors:
    return ChunkVectors(
        start_s=5.0 * np.arange(len(vectors)), vectors=vectors, mean=vectors.mean(0), length_s=1.0
    )


def test_finds_the_pair_that_was_planted() -> None:
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((4, 64))
    chunks = rng.standard_normal((6, 64))
    chunks[4] = queries[3]
    chunks /= np.linalg.norm(chunks, axis=1, keepdims=True)
    assert places_with_mix(stem(chunks), mix(queries))[0] == Place(start_s=8.0, mix_start_s=15.0)


def test_a_chunk_that_is_near_to_everything_is_not_picked() -> None:
    """By hand: the centred cosine is highest at (2, 2), the plain one at (0, 0)."""
    cosines = np.array([[0.8, 0.75, 0.7], [0.5, 0.1, 0.1], [0.1, 0.1, 0.45]])
    chunks = cosines.T  # of the queries (1, 0, 0), (0, 1, 0), (0, 0, 1)
    found = places_with_mix(stem(chunks), mix(np.eye(3)))[0]
    assert found == Place(start_s=4.0, mix_start_s=10.0)


def test_one_chunk_of_mix_takes_the_highest_cosine() -> None:
    chunks = np.eye(3)
    assert places_with_mix(stem(chunks), mix(np.array([[0.1, 0.9, 0.2]])))[0].start_s == 2.0
    assert places_alone(stem(chunks), np.array([0.1, 0.2, 0.9]))[0] == Place(
        start_s=4.0, mix_start_s=None
    )


def test_of_equal_pairs_the_earliest_is_taken() -> None:
    same = np.ones((3, 4)) / 2 + 1e-9 * np.arange(12).reshape(3, 4)
    assert places_with_mix(stem(same), mix(same[::-1]))[0] == Place(start_s=0.0, mix_start_s=0.0)
    assert places_alone(stem(same), np.ones(4) / 2)[0].start_s == 0.0


def test_the_loudness_of_a_query_chunk_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    queries, chunks = rng.standard_normal((5, 16)), rng.standard_normal((7, 16))
    chunks /= np.linalg.norm(chunks, axis=1, keepdims=True)
    scaled = queries * rng.uniform(0.1, 10, (5, 1))
    assert places_with_mix(stem(chunks), mix(queries)) == places_with_mix(stem(chunks), mix(scaled))


def test_each_chunk_of_the_stem_comes_once_with_what_fits_it() -> None:
    cosines = np.array([[0.9, 0.1, 0.2], [0.1, 0.8, 0.1]])  # (mix chunk, stem chunk)
    found = places_with_mix(stem(cosines.T), mix(np.eye(2)))
    assert [(p.start_s, p.mix_start_s) for p in found] == [(2.0, 5.0), (0.0, 0.0), (4.0, 0.0)]
