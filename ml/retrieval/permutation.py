"""Is the difference of two models more than luck? A permutation test over tracks.

If the models were equally good, it would not matter whose answers to a *track* are called A's: the
queries of a track share mix and production, so they are exchanged together (sign-flip per track).
The p-value is the share of such exchanges that make at least as large a difference as was found.
With few tracks all exchanges are counted; else random ones, and the found one among them, so that p
is never 0 (Phipson and Smyth, 2010).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ml.retrieval.bootstrap import Statistic

_BLOCK_VALUES = 4_000_000
_EQUAL = 1e-9


def permutation_p(
    values: np.ndarray,
    other: np.ndarray,
    tracks: Sequence[str] | np.ndarray,
    statistic: Statistic = "mean",
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value of the difference between two models on the same queries.

    Args:
        values: (query,) of one model.
        other: (query,) of the other.
        tracks: (query,) the track of each query.
        statistic: what sums up the queries.
        permutations: exchanges drawn; with 2^tracks or fewer possible ones, all are counted.
        seed: of the draws.

    Returns:
        0…1; 1 where the models do not differ in any query.

    Raises:
        ValueError: shapes that do not fit, no queries, or no permutations.
    """
    values, other = np.asarray(values, np.float64), np.asarray(other, np.float64)
    if values.ndim != 1 or not len(values) or not values.shape == other.shape == (len(tracks),):
        raise ValueError(
            f"values have shapes {values.shape} and {other.shape} for {len(tracks)} tracks; "
            f"expected one of each per query, and a query at least"
        )
    if permutations < 1:
        raise ValueError(f"permutations = {permutations}; expected at least 1")
    differing = np.unique(np.asarray(tracks)[values != other])
    if not len(differing):
        return 1.0
    place = np.searchsorted(differing, np.asarray(tracks))
    place = np.where(np.isin(np.asarray(tracks), differing), place, len(differing))
    is_exact = 2.0 ** len(differing) <= permutations
    n_flips = 2 ** len(differing) if is_exact else permutations
    found = abs(_difference(values[None], other[None], statistic)[0])
    reached = 0
    for flips in _flips(len(differing), n_flips, seed if not is_exact else None, len(values)):
        swapped = flips[:, place]  # (exchange, query)
        draws = _difference(
            np.where(swapped, other, values), np.where(swapped, values, other), statistic
        )
        reached += int(np.count_nonzero(np.abs(draws) >= found - _EQUAL))
    return reached / n_flips if is_exact else (reached + 1) / (n_flips + 1)


def _flips(n_tracks: int, n_flips: int, seed: int | None, n_queries: int) -> Iterator[np.ndarray]:
    """Blocks of (exchange, track + 1) bool: which tracks are exchanged; the last never is.

    Without a seed all exchanges once.
    """
    random = np.random.default_rng(seed)
    rows = max(1, _BLOCK_VALUES // n_queries)
    for first in range(0, n_flips, rows):
        number = np.arange(first, min(first + rows, n_flips))
        if seed is None:
            flips = (number[:, None] >> np.arange(n_tracks)) & 1 == 1
        else:
            flips = random.random((len(number), n_tracks)) < 0.5
        yield np.pad(flips, ((0, 0), (0, 1)))


def _difference(values: np.ndarray, other: np.ndarray, statistic: Statistic) -> np.ndarray:
    """(exchange,) of two (exchange, query)."""
    sum_up = np.median if statistic == "median" else np.mean
    return sum_up(values, axis=1) - sum_up(other, axis=1)
