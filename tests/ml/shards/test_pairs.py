from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ml.audio.activity import active_seconds
from ml.shards.index import IndexedSegment, IndexedStem
from ml.shards.pairs import (
    PairConfig,
    best_start,
    can_give_pair,
    draw_pair,
    gives_pair,
    sounding_stems,
    speed,
)

CONFIG = PairConfig(chunk_s=2.0, min_active_s=0.5)


def segment(*intervals, duration_s=8.0, labels=None):
    stems = tuple(
        IndexedStem(
            stem_id=f"t/{i}",
            content_hash="",
            labels=("a", "b") if labels is None else labels[i],
            label_rows=(0, 1) if labels is None else tuple(range(max(1, len(labels[i])))),
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


def test_music_takes_the_place_of_labels_and_of_nothing_else():
    whole = segment(*[[(0.0, 8.0)]] * 4)
    plain, mixed = draws(whole, 2000), draws(whole, 2000, replace(CONFIG, music_share=0.1))
    is_music = [x.label == "music" for x in mixed]
    assert 0.08 < sum(is_music) / 2000 < 0.12
    for one, other, changed in zip(plain, mixed, is_music, strict=True):
        assert other.is_music == changed
        if changed:
            other = replace(other, label=one.label, is_music=False)
        assert one == other
    always = draws(whole, 20, replace(CONFIG, music_share=1.0))
    assert {x.label for x in always} == {"music"}


LABELS = [("guitar", "clean"), ("guitar", "lead"), ("drums",), ("bass",), (), ("keys", "lead")]


def test_hard_negatives_are_other_instruments_that_the_context_lacks():
    band = segment(*[[(0.0, 8.0)]] * 6, [(7.5, 8.0)], labels=[*LABELS, ("flute",)])
    config = replace(CONFIG, hard_negatives=2)
    found = draws(band, 2000, config)
    assert [replace(x, negatives=()) for x in found] == draws(band, 2000)
    names = {stem_labels: i for i, stem_labels in enumerate(LABELS)}
    seen = Counter()
    for draw in found:
        stems = [x.stem for x in draw.negatives]
        assert list(draw.negatives) == [draw.excerpt(stem) for stem in stems]
        assert len(stems) == len(set(stems)) <= 2
        assert not {draw.target, *draw.context} & set(stems)
        assert names[()] not in stems  # nobody knows that it is another instrument
        for other in stems:
            seen[other] += 1
            labels = band.stems[other].labels
            assert draw.label not in labels
            assert labels[-1:] != band.stems[draw.target].labels[-1:]
    assert {*seen} >= {0, 1, 2, 3, 5}
    lead = names[LABELS[1]]
    of_clean = [x for x in found if x.target == 0 and x.excerpt(lead) in x.negatives]
    assert {x.label for x in of_clean} == {"clean"}  # asked for a guitar, the other one is right
    assert all(x.negatives == () for x in found if x.label == "music")


def test_time_negatives_are_the_target_where_it_sounds_at_other_times():
    whole = segment([(0.0, 30.0)], [(0.0, 4.0), (10.0, 14.0)], [(0.0, 30.0)], duration_s=30.0)
    found = draws(whole, 500, replace(CONFIG, time_negatives=2))
    assert [replace(x, negatives=()) for x in found] == draws(whole, 500)
    for draw in found:
        for stem, start, semitones in draw.negatives:
            assert (stem, semitones) == (draw.target, 0)
            assert abs(start - draw.start) >= CONFIG.chunk_s * 100
            assert stem in sounding_stems(
                [x.intervals for x in whole.stems],
                start / 100,
                start / 100 + CONFIG.chunk_s,
                CONFIG.min_active_s,
            )
    assert {len(x.negatives) for x in found if x.target != 1} == {2}
    assert min(len(x.negatives) for x in found) < 2


def test_speeds_are_drawn_for_pairs_and_others_for_their_negatives():
    whole = segment([(0.0, 30.0)], [(0.0, 30.0)], duration_s=30.0)
    config = replace(CONFIG, semitones=3, speed_negatives=2, time_negatives=1)
    found = draws(whole, 700, config)
    counts = Counter(x.semitones for x in found)
    assert sorted(counts) == [-3, -2, -1, 0, 1, 2, 3]
    assert min(counts.values()) > 60
    for draw in found:
        time, *speeds = draw.negatives
        longest = config.chunk_s * 100 * speed(draw.semitones)
        assert draw.start + longest <= whole.samples + 1
        assert time.semitones == draw.semitones
        assert abs(time.start - draw.start) >= longest - 1
        others = {x.semitones for x in speeds}
        assert len(others) == len(speeds) <= 2
        assert draw.semitones not in others
        assert {(x.stem, x.start) for x in speeds} <= {(draw.target, draw.start)}
        assert all(
            x.start + config.chunk_s * 100 * speed(x.semitones) <= whole.samples + 1 for x in speeds
        )
    short = segment([(0.0, 4.0)], [(3.6, 4.0)], duration_s=4.0)  # a faster chunk is still a pair's
    assert len(draws(short, 50, replace(config, chunk_s=2.0, min_active_s=0.3))) == 50


def test_as_many_negatives_as_there_are():
    trio = segment(*[[(0.0, 8.0)]] * 3, labels=[("a",), ("b",), ("c",)])
    found = draws(trio, 200, replace(CONFIG, hard_negatives=5))
    assert {(len(x.context), len(x.negatives)) for x in found} == {(1, 1), (2, 0)}


def test_wrong_config_is_named():
    with pytest.raises(ValueError, match="music_share is 2"):
        PairConfig(music_share=2)
    with pytest.raises(ValueError, match="hard_negatives is -1"):
        PairConfig(hard_negatives=-1)
    with pytest.raises(ValueError, match="semitones is 2 with rule 'peak'"):
        PairConfig(semitones=2, rule="peak")
    with pytest.raises(ValueError, match="speed_negatives is 3 with semitones 1"):
        PairConfig(semitones=1, speed_negatives=3)
    with pytest.raises(ValueError, match="rule is 'loud'"):
        PairConfig(rule="loud")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="exceeds chunk_s"):
        PairConfig(chunk_s=0.2)


ALTERNATING = [[(0.0, 1.0)], [(15.0, 16.0)]]
OVERLAPPING = [[(0.0, 4.0), (10.0, 12.0)], [(3.0, 5.0)], [(11.5, 16.0)]]


def test_stems_far_apart_give_no_pair_in_short_chunks():
    assert not gives_pair(ALTERNATING, 16.0, 8.0, 0.1)
    assert gives_pair(ALTERNATING, 16.0, 15.0, 0.5)
    assert not gives_pair(ALTERNATING[:1], 16.0, 16.0, 0.1)
    assert not gives_pair([], 16.0, 8.0, 0.1)


def test_the_best_start_agrees_with_an_exhaustive_search():
    rng = np.random.default_rng(0)
    for _ in range(30):
        stems = [random_intervals(rng) for _ in range(4)]
        start_s, count = best_start(stems, 16.0, 4.0, 0.5)
        slow = [
            len([x for x in stems if active_seconds(x, s, s + 4.0) >= 0.5])
            for s in np.append(np.arange(0.0, 12.0, 0.1), 12.0)
        ]
        assert count == max(slow)
        assert len(sounding_stems(stems, start_s, start_s + 4.0, 0.5)) == count
        assert gives_pair(stems, 16.0, 4.0, 0.5) == (max(slow) >= 2)


def random_intervals(rng):
    starts = np.flatnonzero(rng.random(3) < 0.5) * 5
    return [tuple(np.sort(rng.uniform(start, start + 5, 2))) for start in starts]


@pytest.mark.parametrize("chunk_s", [4.0, 20.0])
def test_a_start_leaves_room_for_the_chunk(chunk_s):
    start_s, count = best_start(OVERLAPPING, 16.0, chunk_s, 0.5)
    assert 0.0 <= start_s <= max(0.0, 16.0 - chunk_s)
    assert count == (3 if chunk_s == 20.0 else 2)
