"""95 % intervals and p-values of scores, by resampling and exchanging whole tracks.

Queries of one track share its mix, key, tempo and production, so they are not independent draws:
resampling queries gives intervals that are too narrow. We draw whole *tracks* with replacement
(cluster bootstrap) and take percentiles. Two models are compared on the same draws of the same
queries (paired bootstrap): what makes a track hard for both then cancels in the difference. With
fewer than two tracks there is nothing to resample, and the interval is NaN.

Percentiles of draws of few tracks lie too close together: draws of n tracks spread as
sqrt((n - 1)/n) of what they should, and a normal tail is too short (nine tracks: about 89 % are
covered, not 95 %). Below ``FEW_TRACKS`` the interval is therefore figure ± t(n - 1) · sqrt(n/(n -
1)) · deviation of the draws. For the mean over tracks with equally many queries that is Student's
interval on the tracks' means, but for the error of the draws; for medians and differences it is
the same with their own draws. It ends at 0 and 100 where all values are percentages.

Is the difference of two models more than luck? If they were equally good, it would not matter whose
answers to a *track* are called A's. So the answers to whole tracks are exchanged (permutation test
with a sign a track); the p-value is the share of exchanges that make at least as large a difference
as the models have. With few tracks all exchanges are counted; else random ones, and the models as
they are among them, so that p is never 0 (Phipson and Smyth, 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Statistic = Literal["mean", "median"]

INTERVALS_VERSION = 2
"""Part of the identity of all scores: goes up when intervals are computed in another way."""
FEW_TRACKS = 20
"""With fewer tracks an interval is Student's; from here on it is made of percentiles."""
INTERVALS_SAID = (
    f"95 % intervals: bootstrap over tracks (percentiles); below {FEW_TRACKS} tracks t intervals"
)
"""For people, to stand below tables."""
_BLOCK_VALUES = 4_000_000
_EQUAL_DECIMALS = 9
"""Differences that agree in so many decimals are equal; sums of floats depend on their order."""


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
        highest: of the values of a figure whose lowest is 0: where its intervals end.
    """

    def __init__(
        self,
        tracks: Sequence[str] | np.ndarray,
        *,
        resamples: int = 1000,
        seed: int = 0,
        confidence: float = 0.95,
        highest: float = 100.0,
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
        self._highest = highest
        self._tail = 100 * (1 - confidence) / 2
        random = np.random.default_rng(seed)
        even = np.full(self.n_tracks, 1 / self.n_tracks)
        # (draw, track): how often each track was drawn
        self._weights = random.multinomial(self.n_tracks, even, size=resamples).astype(np.float64)

    @property
    def method(self) -> str:
        """How intervals are made, for people."""
        if self.n_tracks < 2:
            return "none: one track only"
        of = "t interval" if self.n_tracks < FEW_TRACKS else "percentiles of a bootstrap"
        return f"{of} over {self.n_tracks} tracks"

    def interval(self, values: np.ndarray, statistic: Statistic = "mean") -> Interval:
        """Sum up ``values`` (query,), with an interval."""
        values = self._checked(values)
        made = self._interval(_sum_up(values, statistic), self._draws(values, statistic))
        if values.min() < 0 or values.max() > self._highest:
            return made
        low, high = np.clip([made.low, made.high], 0.0, self._highest)
        return Interval(value=made.value, low=float(low), high=float(high))

    def difference(
        self, values: np.ndarray, other: np.ndarray, statistic: Statistic = "mean"
    ) -> Interval:
        """Sum up ``values`` minus ``other`` (both (query,), the same queries)."""
        values, other = self._checked(values), self._checked(other)
        draws = self._draws(values, statistic) - self._draws(other, statistic)
        return self._interval(_sum_up(values, statistic) - _sum_up(other, statistic), draws)

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
        if self.n_tracks < FEW_TRACKS:
            from scipy.stats import t

            quantile = float(t.ppf(1 - self._tail / 100, self.n_tracks - 1))
            spread = float(draws.std()) * (self.n_tracks / (self.n_tracks - 1)) ** 0.5
            return Interval(
                value=value, low=value - quantile * spread, high=value + quantile * spread
            )
        low, high = np.percentile(draws, [self._tail, 100 - self._tail])
        return Interval(value=value, low=float(low), high=float(high))

    def _draws(self, values: np.ndarray, statistic: Statistic) -> np.ndarray:
        """Compute the statistic of each draw: (draw,)."""
        if statistic == "mean":
            sums = np.bincount(self._track, weights=values, minlength=self.n_tracks)
            counts = np.bincount(self._track, minlength=self.n_tracks)
            return (self._weights @ sums) / (self._weights @ counts)
        order = np.argsort(values, kind="stable")
        ordered, track = values[order], self._track[order]
        rows = max(1, _BLOCK_VALUES // len(values))
        blocks = np.split(self._weights, range(rows, len(self._weights), rows))
        return np.concatenate([_weighted_medians(ordered, block[:, track]) for block in blocks])


def permutation_p(
    values: np.ndarray,
    other: np.ndarray,
    tracks: Sequence[str] | np.ndarray,
    statistic: Statistic = "mean",
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> float:
    """Compute the two-sided p-value of the difference between two models on the same queries.

    Args:
        values: (query,) of one model.
        other: (query,) of the other.
        tracks: (query,) the track of each query.
        statistic: what sums up the queries.
        permutations: exchanges drawn; with 2^tracks or fewer possible ones, all are counted.
        seed: of the draws.

    Returns:
        0…1; 1 where the models differ in the queries of one track at most.

    Raises:
        ValueError: shapes that do not fit, no queries, or no permutations.
    """
    from scipy.stats import permutation_test

    values, other = np.asarray(values, np.float64), np.asarray(other, np.float64)
    if values.ndim != 1 or not len(values) or not values.shape == other.shape == (len(tracks),):
        raise ValueError(
            f"values have shapes {values.shape} and {other.shape} for {len(tracks)} tracks; "
            f"expected one of each per query, and a query at least"
        )
    if permutations < 1:
        raise ValueError(f"permutations = {permutations}; expected at least 1")
    ids, track = np.unique(np.asarray(tracks), return_inverse=True)
    differs = np.zeros(len(ids), dtype=bool)
    differs[track[values != other]] = True
    if differs.sum() < 2:  # to exchange a single track changes the sign alone
        return 1.0
    sum_up = np.median if statistic == "median" else np.mean

    def difference(signs: np.ndarray, axis: int) -> np.ndarray:
        """Exchange the tracks whose sign is −: (exchange, track that differs) → (exchange,)."""
        swapped = np.zeros((*signs.shape[:-1], len(ids)), dtype=bool)
        swapped[..., differs] = signs < 0
        swapped = swapped[..., track]  # (exchange, query)
        one = sum_up(np.where(swapped, other, values), axis=axis)
        two = sum_up(np.where(swapped, values, other), axis=axis)
        return np.abs(one - two).round(_EQUAL_DECIMALS)

    return float(
        permutation_test(
            (np.ones(differs.sum()),),
            difference,
            permutation_type="samples",
            alternative="greater",
            n_resamples=permutations,
            batch=max(1, _BLOCK_VALUES // len(values)),
            vectorized=True,
            rng=np.random.default_rng(seed),
        ).pvalue
    )


def _sum_up(values: np.ndarray, statistic: Statistic) -> float:
    return float(np.median(values) if statistic == "median" else np.mean(values))


def _weighted_medians(ordered: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Take medians of ``ordered`` (value,) repeated ``weights`` (draw, value) times: (draw,)."""
    reached = weights.cumsum(axis=1)
    total = reached[:, -1:]
    lower = np.count_nonzero(reached < np.floor((total + 1) / 2), axis=1)
    upper = np.count_nonzero(reached < np.floor(total / 2) + 1, axis=1)
    return (ordered[lower] + ordered[upper]) / 2
