"""Which chunks of a segment can give a pair: at least two of its stems must sound in them.

Shared by the writer (keeps only segments that hold such a chunk) and the pairs (draw among them).
Numpy only. How activity is found in a waveform is the matter of ``ml.audio.activity``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ml.audio.activity import active_seconds

Intervals = Sequence[tuple[float, float]]
"""Where a stem sounds, in seconds from the segment's start; sorted, disjoint."""

GRID_S = 0.1
"""Distance of the chunk starts that ``best_start`` tries, in seconds."""

TOLERANCE_S = 1e-6
"""Rounding of times: an activity of 0.1 s is one although 0.4 - 0.3 < 0.1."""


def sounding_stems(
    stems: Sequence[Intervals], start_s: float, end_s: float, min_active_s: float
) -> list[int]:
    """Indices of the stems that sound for at least ``min_active_s`` between two times."""
    return [
        i
        for i, intervals in enumerate(stems)
        if active_seconds(intervals, start_s, end_s) >= min_active_s - TOLERANCE_S
    ]


def best_start(
    stems: Sequence[Intervals], duration_s: float, chunk_s: float, min_active_s: float
) -> tuple[float, int]:
    """The chunk in which most stems sound.

    Args:
        stems: activity of each stem of the segment.
        duration_s: length of the segment; a shorter one than ``chunk_s`` has one chunk, itself.
        chunk_s: length of a chunk.
        min_active_s: how long a stem must sound in a chunk to count.

    Returns:
        Start of the chunk in seconds (among equals the one with the most activity, then the first)
        and the number of stems that sound in it.
    """
    last_s = max(0.0, duration_s - chunk_s)
    starts = np.append(np.arange(0.0, last_s, GRID_S), last_s)
    active_s = np.stack([_active_between(x, starts, starts + chunk_s) for x in stems])
    counts = (active_s >= min_active_s - TOLERANCE_S).sum(axis=0)  # (start,)
    best = int(np.lexsort((starts, -active_s.sum(axis=0), -counts))[0])
    return float(starts[best]), int(counts[best])


def gives_pair(
    stems: Sequence[Intervals], duration_s: float, chunk_s: float, min_active_s: float
) -> bool:
    """Whether some chunk of the segment has two sounding stems (on the grid of ``best_start``)."""
    longest_silence_s = min(chunk_s, duration_s) - min_active_s
    always = sum(
        duration_s - active_seconds(x, 0.0, duration_s) <= longest_silence_s for x in stems
    )
    if always >= 2:  # these two sound in every chunk: the usual case, without a search
        return True
    return len(stems) >= 2 and best_start(stems, duration_s, chunk_s, min_active_s)[1] >= 2


def _active_between(intervals: Intervals, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Seconds of activity between each start and end: (start,)."""
    if not len(intervals):
        return np.zeros(len(starts))
    edges = np.asarray(intervals, dtype=np.float64)  # (interval, 2)
    lengths = edges[:, 1] - edges[:, 0]
    before = np.stack([np.cumsum(lengths) - lengths, np.cumsum(lengths)], axis=1)
    knots, totals = edges.ravel(), before.ravel()
    return np.interp(ends, knots, totals) - np.interp(starts, knots, totals)
