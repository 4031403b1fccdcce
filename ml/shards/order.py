"""In which order segments are visited: batches of one epoch without two pairs of one track.

Everything is a pure function of (which track each segment belongs to, which shard it lies in,
batch size, seed, epoch), so a run resumes at any batch by its number alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochOrder:
    """The order of a set of segments; ``batches(epoch)`` gives one epoch of it."""

    tracks: np.ndarray
    """(segment,) int64: index of the track of each segment."""
    shards: np.ndarray
    """(segment,) int64: index of the shard of each segment."""
    batch_size: int
    seed: int
    window_shards: int
    """How many shards are mixed with each other at a time."""

    @property
    def n_tracks(self) -> int:
        """Number of different tracks."""
        return len(np.unique(self.tracks))

    @property
    def has_repeats(self) -> bool:
        """Whether a batch must hold several pairs of one track, for want of tracks."""
        return self.n_tracks < self.batch_size

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of every epoch; the same for all."""
        if self.has_repeats:
            return max(1, len(self.tracks) // self.batch_size)
        return _most_batches(np.bincount(self.tracks), self.batch_size)

    def batches(self, epoch: int) -> np.ndarray:
        """Choose the segments of one epoch: their indices (batch, batch_size) int64.

        Each segment occurs at most once, no track twice in a batch. Segments that fit into no batch
        are left out, other ones each epoch. With fewer tracks than ``batch_size`` tracks
        repeat within a batch, and with fewer segments than that, segments too.
        """
        rng = np.random.default_rng([self.seed, epoch])
        if self.has_repeats:
            wanted = self.batches_per_epoch * self.batch_size
            rounds = -(-wanted // len(self.tracks))
            drawn = np.concatenate([rng.permutation(len(self.tracks)) for _ in range(rounds)])
            return drawn[:wanted].reshape(-1, self.batch_size)
        windows = self._windows(rng)
        merged = 1
        while True:
            # The fewer windows at the epoch's end, the fewer segments are lost. One window over all
            # loses none that can be kept, so every epoch ends up with the same number of batches.
            last = max(0, int(windows.max()) + 1 - merged)
            batches = self._deal_windows(np.minimum(windows, last), [self.seed, epoch, 0, 1])
            if len(batches) == self.batches_per_epoch:
                return batches
            merged *= 2

    def _windows(self, rng: np.random.Generator) -> np.ndarray:
        """Give each segment a window, by the random place of its shard: (segment,)."""
        shards = rng.permutation(np.unique(self.shards))
        window = np.empty(int(shards.max()) + 1, dtype=np.int64)
        window[shards] = np.arange(len(shards)) // self.window_shards
        return window[self.shards]

    def _deal_windows(self, windows: np.ndarray, seed: list[int]) -> np.ndarray:
        """Deal batches from one window after the other; what is left over goes to the next."""
        rng = np.random.default_rng(seed)
        left = np.empty(0, dtype=np.int64)
        dealt = []
        for i in range(int(windows.max()) + 1):
            pool = np.concatenate([left, np.flatnonzero(windows == i)])
            batches, left = deal(pool, self.tracks[pool], self.batch_size, rng)
            dealt.append(batches)
        return np.concatenate(dealt)


def deal(
    segments: np.ndarray, tracks: np.ndarray, batch_size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Deal segments into as many full batches as possible, no track twice in a batch.

    Tracks come in random order with their segments next to each other, and take places from a row
    of random permutations of the batches: a track's places lie side by side, so they differ, except
    where one permutation ends and the next begins; there the next one is mended.

    Args:
        segments: (segment,) what to deal.
        tracks: (segment,) the track of each.
        batch_size: pairs per batch.
        rng: the randomness.

    Returns:
        (batch, batch_size) and the segments left over.
    """
    shuffled = rng.permutation(len(segments))
    segments, tracks = segments[shuffled], tracks[shuffled]
    n_batches = _most_batches(np.bincount(tracks), batch_size)
    if n_batches == 0:
        return np.empty((0, batch_size), dtype=np.int64), segments
    kept = np.flatnonzero(_occurrence(tracks) < n_batches)
    kept = np.sort(rng.permutation(kept)[: n_batches * batch_size])
    is_left = np.ones(len(segments), dtype=bool)
    is_left[kept] = False
    first_seen = rng.permutation(int(tracks.max()) + 1)
    by_track = kept[np.argsort(first_seen[tracks[kept]], kind="stable")]
    places = _places(tracks[by_track], n_batches, rng)
    batches = segments[by_track[np.argsort(places, kind="stable")]].reshape(n_batches, batch_size)
    batches = rng.permuted(batches, axis=1)  # else the tracks would keep one order in all batches
    return batches, segments[is_left]


def _most_batches(counts: np.ndarray, batch_size: int) -> int:
    """Find the most batches that tracks with ``counts`` segments fill, each once per batch."""
    low, high = 0, int(counts.sum()) // batch_size
    while low < high:
        middle = (low + high + 1) // 2
        if np.minimum(counts, middle).sum() >= middle * batch_size:
            low = middle
        else:
            high = middle - 1
    return low


def _occurrence(values: np.ndarray) -> np.ndarray:
    """Count the equal values that stand before each: [a, b, a, a] → [0, 0, 1, 2]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    start = np.maximum.accumulate(np.where(is_first, np.arange(len(values)), 0))
    occurrence = np.empty(len(values), dtype=np.int64)
    occurrence[order] = np.arange(len(values)) - start
    return occurrence


def _places(tracks: np.ndarray, n_batches: int, rng: np.random.Generator) -> np.ndarray:
    """Give each segment a batch; ``tracks`` has equal values side by side: (segment,)."""
    is_first = np.concatenate([[True], tracks[1:] != tracks[:-1]])
    begins = np.append(np.flatnonzero(is_first), len(tracks))  # (track + 1,)
    places = np.empty(len(tracks), dtype=np.int64)
    for start in range(0, len(tracks), n_batches):
        row = rng.permutation(n_batches)
        if not is_first[start]:
            straddling = int(np.searchsorted(begins, start))  # begins[straddling] > start
            is_taken = np.zeros(n_batches, dtype=bool)
            is_taken[places[begins[straddling - 1] : start]] = True
            n_more = min(begins[straddling] - start, n_batches)
            front = row[~is_taken[row]][:n_more]
            is_front = np.zeros(n_batches, dtype=bool)
            is_front[front] = True
            row = np.concatenate([front, row[~is_front[row]]])
        places[start : start + n_batches] = row
    return places
