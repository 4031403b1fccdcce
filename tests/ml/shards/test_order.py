import numpy as np
import pytest

from ml.shards.split import EpochOrder, deal


def make_order(counts, *, batch_size, per_shard=16, window_shards=3, seed=0):
    tracks = np.repeat(np.arange(len(counts)), counts)
    return EpochOrder(
        tracks=tracks,
        shards=np.arange(len(tracks)) // per_shard,
        batch_size=batch_size,
        seed=seed,
        window_shards=window_shards,
    )


RNG = np.random.default_rng(0)
CASES = {
    "equal": (np.full(60, 2), 16),
    "mixed": (RNG.integers(1, 9, 150), 32),
    "one giant": (np.array([100, *[1] * 70]), 8),
    "as many tracks as the batch": (np.array([5, 3, 9, 4]), 4),
}


@pytest.mark.parametrize(("counts", "batch_size"), CASES.values(), ids=CASES)
def test_each_segment_at_most_once_and_no_track_twice_in_a_batch(counts, batch_size):
    order = make_order(counts, batch_size=batch_size)
    for epoch in range(4):
        batches = order.batches(epoch)
        assert batches.shape == (order.batches_per_epoch, batch_size)
        assert len(np.unique(batches)) == batches.size
        for batch in batches:
            assert len(np.unique(order.tracks[batch])) == batch_size


@pytest.mark.parametrize(("counts", "batch_size"), CASES.values(), ids=CASES)
def test_no_order_could_have_one_batch_more(counts, batch_size):
    more = make_order(counts, batch_size=batch_size).batches_per_epoch + 1
    # A track fills at most one place of each batch.
    assert np.minimum(counts, more).sum() < more * batch_size


def test_left_over_segments_differ_between_epochs():
    order = make_order(np.full(61, 2), batch_size=16)
    left = [frozenset(range(122)) - set(order.batches(epoch).ravel()) for epoch in range(5)]
    assert {len(x) for x in left} == {122 % 16}
    assert len(set(left)) == 5


def test_order_is_a_function_of_seed_and_epoch():
    counts = np.full(60, 3)
    order = make_order(counts, batch_size=16)
    np.testing.assert_array_equal(order.batches(3), make_order(counts, batch_size=16).batches(3))
    assert not np.array_equal(order.batches(3), order.batches(4))
    assert not np.array_equal(
        order.batches(3), make_order(counts, batch_size=16, seed=1).batches(3)
    )


def test_tracks_meet_different_tracks_in_every_epoch():
    order = make_order(np.full(64, 2), batch_size=16, window_shards=100)
    together = np.zeros((64, 64), dtype=int)
    for epoch in range(40):
        for batch in order.tracks[order.batches(epoch)]:
            together[np.ix_(batch, batch)] += 1
    np.fill_diagonal(together, together[0, 1])
    assert together.min() > 0  # on average 40 epochs by 2 segments by 15 of 63 others: 19
    assert together.max() < 45


def test_a_window_of_shards_is_read_at_a_time():
    order = make_order(np.full(400, 2), batch_size=10, per_shard=20, window_shards=2)
    batches = order.batches(0)
    spread = [len(np.unique(order.shards[batches[i : i + 4]])) for i in range(0, 60, 4)]
    assert max(spread) <= 4  # 40 places: at most the ends of one window and the next


def test_fewer_tracks_than_the_batch_repeat_tracks_but_no_segment():
    order = make_order(np.array([4, 4, 4]), batch_size=6)
    assert order.has_repeats
    assert len(np.unique(order.batches(0))) == 12
    few = make_order(np.array([2, 1]), batch_size=8)
    assert few.batches(0).shape == (1, 8)
    assert set(few.batches(0).ravel()) == {0, 1, 2}


def test_deal_returns_everything_once():
    tracks = np.repeat(np.arange(30), RNG.integers(1, 12, 30))
    pool = np.arange(len(tracks)) + 1000
    batches, left = deal(pool, tracks, 8, np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(np.concatenate([batches.ravel(), left])), pool)


@pytest.mark.parametrize("seed", range(12))
def test_laws_hold_for_random_corpora(seed):
    """Every epoch: full batches, no segment twice, no track twice in a batch, none too few."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, rng.integers(2, 30), rng.integers(2, 120))
    batch_size = int(rng.integers(1, len(counts) + 1))
    order = make_order(
        counts,
        batch_size=batch_size,
        per_shard=int(rng.integers(1, 40)),
        window_shards=int(rng.integers(1, 6)),
        seed=seed,
    )
    left = []
    for epoch in range(3):
        batches = order.batches(epoch)
        assert batches.shape == (order.batches_per_epoch, batch_size)
        assert len(np.unique(batches)) == batches.size
        assert all(len(np.unique(order.tracks[batch])) == batch_size for batch in batches)
        left.append(frozenset(range(len(order.tracks))) - set(batches.ravel().tolist()))
    assert order.batches_per_epoch == _most_batches_slowly(counts, batch_size)
    if len(left[0]) > 5:
        assert len(set(left)) > 1


def _most_batches_slowly(counts, batch_size):
    n = 0
    while np.minimum(counts, n + 1).sum() >= (n + 1) * batch_size:
        n += 1
    return n
