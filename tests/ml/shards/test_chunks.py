import numpy as np
import pytest

from ml.audio.activity import active_seconds
from ml.shards.pairs import best_start, gives_pair, sounding_stems

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
        stems = [
            [
                tuple(np.sort(rng.uniform(5 * k, 5 * k + 5, 2)))
                for k in range(3)
                if rng.random() < 0.5
            ]
            for _ in range(4)
        ]
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
