"""95 % intervals for scores, by resampling tracks.

Queries of one track share its mix, key, tempo and production, so they are not independent draws:
resampling queries gives intervals that are too narrow. We draw whole *tracks* with replacement
(cluster bootstrap) and take percentiles. Two models are compared on the same draws of the same
queries (paired bootstrap): what makes a track hard for both then cancels in the difference.

With fewer than two tracks there is nothing to resample, and the interval is NaN.

[permutation] Is the difference of two models more than luck? A permutation test over tracks.

If the models were equally good, it would not matter whose answers to a *track* are called A's: the
queries of a track share mix and production, so they are exchanged together (sign-flip per track).
The p-value is the share of such exchanges that make at least as large a difference as was found.
With few tracks all exchanges are counted; else random ones, and the found one among them, so that p
is never 0 (Phipson and Smyth, 2010).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Statistic = Literal["mean", "median"]


_BLOCK_VALUES = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and the interval that holds it with the stated confidence."""

    value: float
    """The statistic of all queries."""
    low: float
    """Lower end; NaN with fewer than two tracks."""
    high: float
    """Upper end; NaN with fewer than two tracks."""


class TrackBootstrap:
    """Draws of tracks, made once and used for every metric and model on the same queries.

    Args:
        tracks: (query,) the track of each query, any hashable ids.
        resamples: number of draws.
        seed: of the draws; the same seed and tracks give the same intervals.
        confidence: share of the draws inside the interval, 0…1.
    """

    def __init__(
        self,
        tracks: Sequence[str] | np.ndarray,
        *,
        resamples: int = 1000,
        seed: int = 0,
        confidence: float = 0.95,
    ):
        if not len(tracks):
            raise ValueError("there are no queries to resample; expected at least one")
        if resamples < 1 or not 0 < confidence < 1:
            raise ValueError(
                f"resamples = {resamples}, confidence = {confidence}; "
                f"expected at least 1 and a share between 0 and 1"
            )
        ids, self._track = np.unique(np.asarray(tracks), return_inverse=True)
        self.n_tracks = len(ids)
        self._tail = 100 * (1 - confidence) / 2
        self._known: dict[tuple[Statistic, bytes], np.ndarray] = {}
        random = np.random.default_rng(seed)
        even = np.full(self.n_tracks, 1 / self.n_tracks)
        # (draw, track): how often each track was drawn
        self._weights = random.multinomial(self.n_tracks, even, size=resamples).astype(np.float64)

    def interval(self, values: np.ndarray, statistic: Statistic = "mean") -> Interval:
        """The statistic of ``values`` (query,) and its interval."""
        values = self._checked(values)
        return self._interval(_statistic(values, statistic), self._draws(values, statistic))

    def difference(
        self, values: np.ndarray, other: np.ndarray, statistic: Statistic = "mean"
    ) -> Interval:
        """Statistic of ``values`` minus that of ``other`` (both (query,), the same queries)."""
        values, other = self._checked(values), self._checked(other)
        draws = self._draws(values, statistic) - self._draws(other, statistic)
        return self._interval(_statistic(values, statistic) - _statistic(other, statistic), draws)

    def _checked(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, dtype=np.float64)
        if values.shape != self._track.shape:
            raise ValueError(
                f"values have shape {values.shape}; expected one per query, {self._track.shape}"
            )
        return values

    def _interval(self, value: float, draws: np.ndarray) -> Interval:
        if self.n_tracks < 2:
            return Interval(value=value, low=float("nan"), high=float("nan"))
        low, high = np.percentile(draws, [self._tail, 100 - self._tail])
        return Interval(value=value, low=float(low), high=float(high))

    def _draws(self, values: np.ndarray, statistic: Statistic) -> np.ndarray:
        """The statistic of each draw: (draw,); kept, a model is compared with several others."""
        key = statistic, values.tobytes()
        if key not in self._known:
            self._known[key] = self._new_draws(values, statistic)
        return self._known[key]

    def _new_draws(self, values: np.ndarray, statistic: Statistic) -> np.ndarray:
        if statistic == "median":
            return self._median_draws(values)
        sums = np.bincount(self._track, weights=values, minlength=self.n_tracks)
        counts = np.bincount(self._track, minlength=self.n_tracks)
        return (self._weights @ sums) / (self._weights @ counts)

    def _median_draws(self, values: np.ndarray) -> np.ndarray:
        order = np.argsort(values, kind="stable")
        ordered, track = values[order], self._track[order]
        rows = max(1, _BLOCK_VALUES // len(values))
        blocks = np.split(self._weights, range(rows, len(self._weights), rows))
        return np.concatenate([_weighted_medians(ordered, block[:, track]) for block in blocks])


class TrackBootstraps:
    """A ``TrackBootstrap`` for all queries, and one for each part of them a metric applies to.

    Args:
        tracks: (query,) the track of each query.
        resamples: number of draws.
        seed: of the draws.
    """

    def __init__(self, tracks: np.ndarray, *, resamples: int, seed: int):
        self._tracks, self._resamples, self._seed = tracks, resamples, seed
        self._made: dict[bytes, TrackBootstrap] = {}

    def of(self, applies: np.ndarray) -> TrackBootstrap:
        """The draws for the queries where ``applies`` (query,) is true."""
        key = applies.tobytes()
        if key not in self._made:
            tracks = self._tracks[applies].astype(str)
            self._made[key] = TrackBootstrap(tracks, resamples=self._resamples, seed=self._seed)
        return self._made[key]


def _weighted_medians(ordered: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Medians of ``ordered`` (value,) repeated ``weights`` (draw, value) times: (draw,)."""
    reached = weights.cumsum(axis=1)
    total = reached[:, -1:]
    lower = np.count_nonzero(reached < np.floor((total + 1) / 2), axis=1)
    upper = np.count_nonzero(reached < np.floor(total / 2) + 1, axis=1)
    return (ordered[lower] + ordered[upper]) / 2


def _statistic(values: np.ndarray, statistic: Statistic) -> float:
    return float(np.median(values) if statistic == "median" else np.mean(values))


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
