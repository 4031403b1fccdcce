from __future__ import annotations

import itertools

import numpy as np
import pytest

from ml.scores.intervals import permutation_p


def simulated(random: np.random.Generator, tracks: int, gain: float = 0.0) -> tuple:
    """Two models on the same queries: track and query make both easy or hard, luck is their own."""
    track = np.repeat(np.arange(tracks), 4)
    shared = random.standard_normal(tracks)[track]
    own = random.standard_normal((2, tracks))[:, track]  # a track suits one model or the other
    values, other = shared + own + 0.5 * random.standard_normal((2, len(track)))
    return values + gain, other, track


def test_p_is_uniform_when_models_are_equal():
    random = np.random.default_rng(0)
    p = np.array(
        [permutation_p(*simulated(random, 20), permutations=200, seed=i) for i in range(500)]
    )
    for level in (0.05, 0.2, 0.5, 0.8):
        share = (p <= level).mean()
        assert abs(share - level) < 3 * np.sqrt(level * (1 - level) / len(p))
    assert p.min() >= 1 / 201


def test_p_is_small_when_a_model_is_better():
    random = np.random.default_rng(1)
    p = [permutation_p(*simulated(random, 40, gain=2.0), permutations=2000) for _ in range(5)]
    assert max(p) < 0.005
    values, other, track = simulated(random, 40, gain=2.0)
    assert permutation_p(other, values, track) == permutation_p(values, other, track)


def test_few_tracks_are_counted_exactly():
    random = np.random.default_rng(2)
    values, other, track = simulated(random, 4, gain=0.5)
    found = abs(values.mean() - other.mean())
    reached = 0
    for flips in itertools.product([False, True], repeat=4):
        swap = np.array(flips)[track]
        a, b = np.where(swap, other, values), np.where(swap, values, other)
        reached += abs(a.mean() - b.mean()) >= found - 1e-12
    assert permutation_p(values, other, track) == reached / 16
    # one track tells nothing: exchanging it gives the same difference
    assert permutation_p(values, other, np.zeros(16)) == 1


def test_random_exchanges_approach_the_exact_p():
    random = np.random.default_rng(3)
    values, other, track = simulated(random, 12, gain=0.7)
    exact = permutation_p(values, other, track, permutations=4096)
    drawn = permutation_p(values, other, track, permutations=4095)
    assert abs(exact - drawn) < 0.03
    assert drawn != exact


def test_tracks_without_a_difference_do_not_matter():
    random = np.random.default_rng(4)
    values, other, track = simulated(random, 6, gain=1.0)
    p = permutation_p(values, other, track)
    same = np.zeros(40)
    more = permutation_p(np.r_[values, same], np.r_[other, same], np.r_[track, 100 + np.arange(40)])
    assert more == p
    assert permutation_p(values, values, track) == 1


def test_the_median_is_exchanged_too():
    random = np.random.default_rng(5)
    values, other, track = simulated(random, 30, gain=3.0)
    assert permutation_p(values, other, track, "median", permutations=500) == 1 / 501
    values[0] = -1e9  # an outlier makes the mean useless
    assert permutation_p(values, other, track, permutations=500) > 0.1
    assert permutation_p(values, other, track, "median", permutations=500) == 1 / 501


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\) for 2 tracks"):
        permutation_p(np.zeros(2), np.zeros(3), ["a", "b"])
    with pytest.raises(ValueError, match="a query at least"):
        permutation_p(np.zeros(0), np.zeros(0), [])
    with pytest.raises(ValueError, match="permutations = 0"):
        permutation_p(np.zeros(1), np.ones(1), ["a"], permutations=0)
