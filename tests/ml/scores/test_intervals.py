from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from ml.scores.intervals import FEW_TRACKS, Statistic, TrackBootstrap

STATISTICS: dict[Statistic, Callable[[np.ndarray], np.floating]] = {
    "mean": np.mean,
    "median": np.median,
}


def test_equal_values_have_an_interval_of_no_width() -> None:
    bootstrap = TrackBootstrap(["a", "a", "b", "c"])
    for statistic in STATISTICS:
        found = bootstrap.interval(np.full(4, 7.0), statistic)
        assert (found.value, found.low, found.high) == (7.0, 7.0, 7.0)


def test_one_track_has_no_interval() -> None:
    found = TrackBootstrap(["a", "a"]).interval(np.array([1.0, 3.0]))
    assert found.value == 2.0
    assert np.isnan([found.low, found.high]).all()


def test_draws_equal_resampling_by_hand() -> None:
    random = np.random.default_rng(0)
    tracks = np.arange(90) % (FEW_TRACKS + 6)
    values = random.normal(size=90)
    bootstrap = TrackBootstrap(tracks, resamples=50, seed=3)
    assert bootstrap.method == f"percentiles of a bootstrap over {FEW_TRACKS + 6} tracks"
    for statistic, function in STATISTICS.items():
        expected = []
        for weights in bootstrap._weights.astype(int):
            drawn = np.repeat(values, weights[np.unique(tracks, return_inverse=True)[1]])
            expected.append(function(drawn))
        low, high = np.percentile(expected, [2.5, 97.5])
        found = bootstrap.interval(values, statistic)
        assert (found.low, found.high) == pytest.approx((low, high))


def test_covers_the_truth_where_queries_of_a_track_agree() -> None:
    """Track effects far larger than query noise: an interval over queries would cover ~50 %."""
    assert 0.88 <= coverage(n_tracks=40, queries=8, trials=200, seed=1) <= 0.99


def coverage(*, n_tracks: int, queries: int, trials: int, seed: int) -> float:
    """In which share of trials the interval has the true mean, 0."""
    random = np.random.default_rng(seed)
    tracks = np.repeat(np.arange(n_tracks), queries)
    covered = 0
    for trial in range(trials):
        values = random.normal(size=n_tracks)[tracks] + 0.1 * random.normal(size=len(tracks))
        found = TrackBootstrap(tracks, resamples=300, seed=trial).interval(values)
        covered += found.low <= 0 <= found.high
    return covered / trials


def test_few_tracks_have_students_interval_on_their_means() -> None:
    random = np.random.default_rng(5)
    means = 100 * random.normal(size=9)
    tracks = np.repeat(np.arange(9), 4)
    values = means[tracks] + np.tile([-3.0, 3.0, -1.0, 1.0], 9)
    bootstrap = TrackBootstrap(tracks, resamples=20_000)
    found = bootstrap.interval(values)
    half = stats.t.ppf(0.975, 8) * means.std(ddof=1) / 3
    assert found.value == pytest.approx(means.mean())
    assert (found.low, found.high) == pytest.approx(
        (means.mean() - half, means.mean() + half), rel=0.03
    )
    assert bootstrap.method == "t interval over 9 tracks"
    shifted = bootstrap.difference(values + 5, values)
    assert (shifted.low, shifted.value, shifted.high) == pytest.approx((5, 5, 5))


def test_few_tracks_cover_the_truth() -> None:
    """Percentiles alone would cover 85 % with six tracks."""
    assert coverage(n_tracks=6, queries=5, trials=300, seed=6) >= 0.92


def test_percentages_stay_percentages() -> None:
    values = np.array([0.0, 0.0, 0.0, 100.0])
    found = TrackBootstrap(["a", "b", "c", "d"]).interval(values)
    assert found.low == 0
    assert 60 < found.high <= 100


def test_a_model_minus_itself_is_exactly_zero() -> None:
    random = np.random.default_rng(2)
    values = random.normal(size=30)
    bootstrap = TrackBootstrap(random.integers(0, 5, 30))
    for statistic in STATISTICS:
        found = bootstrap.difference(values, values, statistic)
        assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_pairing_cancels_what_is_hard_for_both() -> None:
    random = np.random.default_rng(3)
    tracks = np.repeat(np.arange(30), 4)
    hard = 50 * random.normal(size=30)[tracks]
    first, second = hard + 1 + 0.1 * random.normal(size=120), hard + 0.1 * random.normal(size=120)
    bootstrap = TrackBootstrap(tracks)
    assert bootstrap.difference(first, second).low > 0.9
    alone = bootstrap.interval(first)
    assert alone.high - alone.low > 10


def test_the_seed_decides() -> None:
    values, tracks = np.arange(20.0), np.arange(20) // 2
    first = TrackBootstrap(tracks, seed=1).interval(values)
    assert first == TrackBootstrap(tracks, seed=1).interval(values)
    assert first != TrackBootstrap(tracks, seed=2).interval(values)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="no queries"):
        TrackBootstrap([])
    with pytest.raises(ValueError, match="one per query"):
        TrackBootstrap(["a", "b"]).interval(np.zeros(3))
    with pytest.raises(ValueError, match="resamples"):
        TrackBootstrap(["a"], resamples=0)
