"""How the chunks of a stem rank for the chunks of its own query, and what that makes together.

Pure functions; what the figures mean stands in ``ml.retrieval.alignment``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.retrieval.bootstrap import TrackBootstrap
from ml.retrieval.metrics import TIE_TOLERANCE

FIRST, RANK = "aligned_first", "aligned_rank"
MAX_OFFSET_CHUNKS = 16
"""Farther chunks are ranked but not plotted."""


@dataclass(frozen=True, kw_only=True)
class ChunkRanks:
    """How the chunks of one stem rank for the query chunks of the same stem."""

    ranks: np.ndarray
    """(query chunk, stem chunk) in percent: 0 first, 100 last; ties count against a chunk."""
    offsets: np.ndarray
    """(query chunk, stem chunk) chunks from the query's time to the stem chunk's."""


def chunk_ranks(
    queries: np.ndarray, query_starts: np.ndarray, chunks: np.ndarray, chunk_starts: np.ndarray
) -> ChunkRanks | None:
    """Rank the chunks of a stem for the chunks of its query.

    Args:
        queries: (query chunk, dim), unit norm.
        query_starts: (query chunk,) where, in whole chunks.
        chunks: (stem chunk, dim), unit norm.
        chunk_starts: (stem chunk,) where, in whole chunks.

    Returns:
        The query chunks whose own time is among the stem's; None when there are none, or the stem
        has fewer than two chunks.
    """
    has_own = np.isin(query_starts, chunk_starts)
    if len(chunks) < 2 or not has_own.any():
        return None
    cosines = queries[has_own] @ chunks.T  # (query chunk, stem chunk)
    others = len(chunks) - 1
    before = (cosines[:, None, :] >= cosines[:, :, None] - TIE_TOLERANCE).sum(axis=2) - 1
    return ChunkRanks(
        ranks=100.0 * before / others,
        offsets=chunk_starts[None, :] - query_starts[has_own, None],
    )


def alignment_scores(
    found: Sequence[tuple[str, ChunkRanks]], resamples: int, seed: int
) -> Iterator[dict[str, Any]]:
    """``aligned_first`` and ``aligned_rank`` over all query chunks.

    Args:
        found: the track and the ranks of each stem.
        resamples: draws of the bootstrap over tracks.
        seed: of the draws.
    """
    own = [ranks.ranks[ranks.offsets == 0] for _, ranks in found]
    tracks = np.repeat([track for track, _ in found], [len(values) for values in own])
    sizes = [len(ranks.ranks[0]) for _, ranks in found]
    values = np.concatenate(own)
    chance = np.repeat(100.0 / np.array(sizes), [len(values) for values in own])
    bootstrap = TrackBootstrap(tracks, resamples=resamples, seed=seed)
    for metric, each, level in (
        (FIRST, 100.0 * (values == 0), float(chance.mean())),
        (RANK, values, 50.0),
    ):
        interval = bootstrap.interval(each)
        yield {
            "metric": metric,
            "n_queries": len(values),
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
            "chance": level,
        }


def offset_rows(
    found: Sequence[tuple[str, ChunkRanks]], chunk_s: float, resamples: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Mean rank of the chunks at each distance in time, with intervals over tracks.

    Args:
        found: the track and the ranks of each stem.
        chunk_s: length of a chunk in seconds.
        resamples: draws of the bootstrap over tracks.
        seed: of the draws.
    """
    ranks = np.concatenate([each.ranks.ravel() for _, each in found])
    offsets = np.concatenate([each.offsets.ravel() for _, each in found])
    tracks = np.repeat([track for track, _ in found], [each.ranks.size for _, each in found])
    for offset in np.unique(offsets[np.abs(offsets) <= MAX_OFFSET_CHUNKS]):
        chosen = offsets == offset
        bootstrap = TrackBootstrap(tracks[chosen], resamples=resamples, seed=seed)
        interval = bootstrap.interval(ranks[chosen])
        yield {
            "offset_s": float(offset * chunk_s),
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
            "chunks": int(chosen.sum()),
        }
