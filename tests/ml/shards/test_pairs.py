from collections import Counter

import numpy as np
import pytest

from ml.shards.index import IndexedSegment, IndexedStem
from ml.shards.pairs import PairConfig, can_give_pair, draw_pair

CONFIG = PairConfig(chunk_s=2.0, min_active_s=0.5)


def segment(*intervals, duration_s=8.0):
    stems = tuple(
        IndexedStem(
            stem_id=f"t/{i}",
            content_hash="",
            labels=("a", "b"),
            label_rows=(0, 1),
            four_class=0,
            gain=1.0,
            intervals=tuple(x),
            offset=0,
            size=0,
        )
        for i, x in enumerate(intervals)
    )
    return IndexedSegment(
        key="k",
        corpus="c",
        track_id="t",
        start_s=0.0,
        samples=round(duration_s * 100),
        texts=("a", "b"),
        labels_offset=0,
        stems=stems,
    )


def no_peaks(_start):
    raise AssertionError("the intervals rule reads no audio")


def draws(of, n, config=CONFIG, peaks=no_peaks):
    return [draw_pair(of, 100, config, np.random.default_rng(i), peaks) for i in range(n)]


def test_targets_sizes_subsets_and_labels_are_uniform():
    found = draws(segment(*[[(0.0, 8.0)]] * 4), 4000)
    assert_uniform(Counter(x.target for x in found), 4)
    assert_uniform(Counter(len(x.context) for x in found), 3)
    assert_uniform(Counter(x.context for x in found if len(x.context) == 2), 6)
    assert_uniform(Counter(x.label for x in found), 2)
    assert_uniform(Counter(x.start // 100 for x in found if x.start < 600), 6)
    assert all(x.target not in x.context for x in found)
    assert all(x.label_row == ("a", "b").index(x.label) for x in found)


def assert_uniform(counts, n_values):
    assert len(counts) == n_values
    expected = counts.total() / n_values
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_a_short_overlap_is_found_after_ten_tries():
    overlap = segment([(0.0, 4.0)], [(3.4, 3.9)], duration_s=60.0)
    assert can_give_pair(overlap, 100, CONFIG)
    for found in draws(overlap, 50):
        assert found.start / 100 <= 3.4 + 1e-9
        assert found.start / 100 + 2.0 >= 3.9 - 1e-9
        assert {found.target, *found.context} == {0, 1}


def test_stems_that_never_meet_give_no_pair():
    assert not can_give_pair(segment([(0.0, 2.0)], [(5.0, 8.0)]), 100, CONFIG)


def test_the_peak_rule_asks_for_peaks():
    def peaks(start):
        return np.array([1.0, 0.05, 0.11]) if start > 100 else np.zeros(3)

    config = PairConfig(chunk_s=2.0, rule="peak")
    found = draws(segment(*[[(0.0, 8.0)]] * 3), 200, config, peaks)
    assert all({x.target, *x.context} == {0, 2} and x.start > 100 for x in found)


def test_wrong_config_is_named():
    with pytest.raises(ValueError, match="rule is 'loud'"):
        PairConfig(rule="loud")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="exceeds chunk_s"):
        PairConfig(chunk_s=0.2)
