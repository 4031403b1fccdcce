"""The segments of a split: read from the indexes of its shards, and the order of an epoch.

Only segments that can give a pair are kept, packed small enough for whoever trains to keep them all
in memory, once for all worker processes.

In one epoch no batch has two pairs of one track; tracks of several corpora that bear the name of
one song (``ml.tracks.song_key``) count as one. The order is a pure function of (which track each
segment belongs to, which shard it lies in, batch size, seed, epoch), so a run resumes at any batch
by its number alone. Where corpora have weights each batch is mixed of them, and each has its own
epochs.
"""

from __future__ import annotations

import logging
import pickle
from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.artifacts import ArtifactError
from ml.shards.folders import Shard, ShardFolder
from ml.shards.index import Damage, DamagedShardError, IndexedSegment, ShardIndex
from ml.shards.pairs import PairConfig, can_give_pair
from ml.tracks import song_key

_log = logging.getLogger(__name__)

Manifests = Mapping[ShardFolder, Mapping[str, Any]]


class EmptySplitError(ArtifactError):
    """The shards hold no segment of the split asked for."""


class PackedSegments:
    """A list of segments as one block of bytes.

    Worker processes are forks: of a list of objects each would copy every page it ever looks at, as
    looking changes reference counts, so memory would grow over an epoch. Bytes stay shared.
    """

    def __init__(self) -> None:
        self._block = bytearray()
        self._ends = array("q", [0])  # int64, side by side

    def append(self, segment: IndexedSegment) -> None:
        """Add a segment."""
        self._block += pickle.dumps(segment, protocol=pickle.HIGHEST_PROTOCOL)
        self._ends.append(len(self._block))

    def __len__(self) -> int:
        """Count the segments."""
        return len(self._ends) - 1

    def __getitem__(self, place: int) -> IndexedSegment:
        """Unpack one segment."""
        return pickle.loads(memoryview(self._block)[self._ends[place] : self._ends[place + 1]])


class SplitSegments:
    """The segments of a split that can give a pair."""

    def __init__(self) -> None:
        self.shards: list[tuple[ShardFolder, Shard]] = []
        self.segments = PackedSegments()
        self.rate_hz = 0
        self.dropped = 0
        """Segments without a chunk that gives a pair."""
        self.skipped: list[tuple[Damage, int]] = []
        """Shards whose index cannot be read, with their number of segments."""
        self.decoded_bytes = 0
        """Of the stems that are stored as FLAC, as int16."""
        self.labels: set[str] = set()
        self.places_of_texts: dict[str, int] = {}
        """First segment with each text that a stem is conditioned with, "music" included."""
        self._hashes: dict[tuple[str, str], set[str]] = {}
        self._names: dict[tuple[str, str], dict[str, str | None]] = {}
        self._places: dict[tuple[str, str], int] = {}
        self._track_of: list[int] = []
        self._shard_of: list[int] = []

    @property
    def tracks(self) -> list[tuple[str, str]]:
        """(corpus, track_id)."""
        return list(self._places)

    @property
    def track_of(self) -> np.ndarray:
        """(segment,) int64: index into ``tracks``."""
        return np.array(self._track_of, dtype=np.int64)

    @property
    def shard_of(self) -> np.ndarray:
        """(segment,) int64: index into ``shards``."""
        return np.array(self._shard_of, dtype=np.int64)

    @property
    def songs(self) -> np.ndarray:
        """(track,) int64: of tracks that several corpora have of one song, the first; else itself.

        Within a corpus tracks of one name stay what they are.
        """
        named: dict[str, list[int]] = {}
        for place, track in enumerate(self._places):
            if (key := song_key(**self._names[track])) is not None:
                named.setdefault(key, []).append(place)
        songs, tracks = np.arange(len(self._places)), self.tracks
        for places in named.values():
            if len({tracks[place][0] for place in places}) > 1:
                songs[places] = places[0]
        return songs

    def segments_of_tracks(self) -> list[np.ndarray]:
        """List the segments of each track, by their places: (segment of the track,) each."""
        tracks = self.track_of
        counts = np.bincount(tracks, minlength=len(self._places))
        return np.split(np.argsort(tracks, kind="stable"), np.cumsum(counts)[:-1])

    def described_tracks(self) -> list[dict[str, Any]]:
        """Describe each track: corpus, id, content hashes of its stems, artist and title."""
        return [
            {
                "corpus": track[0],
                "track_id": track[1],
                "content_hash": sorted(hashes),
                **self._names[track],
            }
            for track, hashes in self._hashes.items()
        ]

    def add(self, folder: ShardFolder, index: ShardIndex, config: PairConfig) -> None:
        """Add what a shard holds.

        Raises:
            ArtifactError: its rate is not that of the shards before.
        """
        if self.shards and index.rate_hz != self.rate_hz:
            raise ArtifactError(
                f"{folder.where(index.name)} has {index.rate_hz} Hz, the shards before it "
                f"{self.rate_hz} Hz; expected one rate: build them with one setting"
            )
        self.rate_hz, shard = index.rate_hz, Shard.of(index)
        for segment in index.segments:
            if can_give_pair(segment, index.rate_hz, config):
                self._add(segment)
                if shard.payload == "flac":
                    self.decoded_bytes += 2 * segment.samples * len(segment.stems)
            else:
                self.dropped += 1
        self.shards.append((folder, shard))

    def _add(self, segment: IndexedSegment) -> None:
        track = (segment.corpus, segment.track_id)
        self._hashes.setdefault(track, set()).update(x.content_hash for x in segment.stems)
        self._names[track] = {"artist": segment.artist, "title": segment.title}
        self.labels.update(label for stem in segment.stems for label in stem.labels)
        for text in segment.texts:
            self.places_of_texts.setdefault(text, len(self.segments))
        self._track_of.append(self._places.setdefault(track, len(self._places)))
        self._shard_of.append(len(self.shards))
        self.segments.append(segment)


def read_split(manifests: Manifests, split: str, config: PairConfig) -> SplitSegments:
    """Read the indexes of a split.

    Args:
        manifests: the folders of shards with their manifests.
        split: train, valid or test.
        config: how pairs are drawn, and whether a damaged index is skipped or an error.

    Raises:
        ArtifactError: an index is missing or damaged, or rates differ.
    """
    segments = SplitSegments()
    for folder, manifest in manifests.items():
        entries = [x for x in manifest["shards"] if x["split"] == split and x["segments"]]
        indexes = folder.indexes([entry["name"] for entry in entries])
        for entry, index in zip(entries, indexes, strict=True):
            if not isinstance(index, DamagedShardError):
                segments.add(folder, index, config)
            elif config.damaged == "error":
                raise index
            else:
                segments.skipped.append((index.damage, entry["segments"]))
    if segments.dropped:
        _log.info("%d segments have no chunk of %g s with a pair", segments.dropped, config.chunk_s)
    return segments


def refuse_empty(
    segments: SplitSegments, manifests: Manifests, split: str, config: PairConfig
) -> None:
    """Refuse a split that nothing can be drawn from.

    Raises:
        EmptySplitError: there is no segment of the split.
        ArtifactError: no segment gives a pair.
    """
    folders = ", ".join(folder.where("").rstrip("/") for folder in manifests)
    if not segments.shards:
        there = sorted({x["split"] for m in manifests.values() for x in m["shards"]})
        raise EmptySplitError(
            f"{folders} hold no segment of split {split!r}, only of {there}; train on a corpus "
            "that has one, or give its tracks this split"
        )
    if not len(segments.segments):
        raise ArtifactError(
            f"{folders}: no segment has two stems that sound for {config.min_active_s:g} s in a "
            f"chunk of {config.chunk_s:g} s; lower min_active_s or use longer chunks"
        )


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


@dataclass(frozen=True, kw_only=True, eq=False)
class MixedOrder:
    """An order in which each batch holds so many segments of each of several corpora.

    A corpus begins anew when it is through, the others do not wait: an epoch of all is one of the
    corpus that takes longest.
    """

    parts: tuple[tuple[np.ndarray, EpochOrder], ...]
    """Of each corpus: its segments (segment of the corpus,), and the order of these."""
    tracks: np.ndarray
    """(segment,) int64, of all corpora."""
    shards: np.ndarray
    """(segment,) int64, of all corpora."""
    batch_size: int
    seed: int

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of every epoch; the same for all."""
        return max(order.batches_per_epoch for _, order in self.parts)

    def batches(self, epoch: int) -> np.ndarray:
        """Choose the segments of one epoch: (batch, batch_size) int64, the corpora side by side."""
        n = self.batches_per_epoch
        runs = (segments[_run(order, epoch * n, n)] for segments, order in self.parts)
        return np.concatenate(list(runs), axis=1)


Order = EpochOrder | MixedOrder


def _run(order: EpochOrder, start: int, n: int) -> np.ndarray:
    """Take ``n`` batches from number ``start`` on, across epochs: (batch, batch_size)."""
    first, skipped = divmod(start, order.batches_per_epoch)
    last = (start + n - 1) // order.batches_per_epoch
    return np.concatenate([order.batches(e) for e in range(first, last + 1)])[skipped:][:n]


def order_segments(
    split: SplitSegments, config: PairConfig, *, batch_size: int, seed: int
) -> Order:
    """Order the segments of a split, or its tracks where one of each is taken.

    Raises:
        ValueError: the weights are not of the corpora of the split, or one gets no place.
    """
    songs, tracks, shards = split.songs, split.track_of, split.shard_of
    if config.is_by_track:  # one of each, at the shard where it lies
        tracks, first = np.unique(tracks, return_index=True)
        shards = shards[first]
    corpora = np.array([corpus for corpus, _ in split.tracks])[tracks]

    def order(places: np.ndarray, size: int) -> EpochOrder:
        return EpochOrder(
            tracks=songs[tracks[places]],
            shards=shards[places],
            batch_size=size,
            seed=seed,
            window_shards=config.window_shards,
        )

    everything = np.arange(len(tracks))
    if not config.weights:
        return order(everything, batch_size)
    sizes = share_batch(config.weights, set(corpora.tolist()), batch_size)
    places = {name: everything[corpora == name] for name in sizes}
    return MixedOrder(
        parts=tuple((places[name], order(places[name], size)) for name, size in sizes.items()),
        tracks=songs[tracks],
        shards=shards,
        batch_size=batch_size,
        seed=seed,
    )


def share_batch(
    weights: Mapping[str, float], corpora: Collection[str], batch_size: int
) -> dict[str, int]:
    """Share the places of a batch among corpora by weight: corpus → places, together all.

    Raises:
        ValueError: the weights are not of these corpora, or one gets no place.
    """
    if set(weights) != set(corpora):
        raise ValueError(
            f"pairs.weights has {', '.join(sorted(weights))}, and the shards hold "
            f"{', '.join(sorted(corpora))}; expected a weight for each of these and no other"
        )
    names = sorted(weights)
    ends = np.cumsum([weights[name] for name in names])
    places = np.diff(np.rint(batch_size * ends / ends[-1]).astype(int), prepend=0).tolist()
    if min(places) < 1:
        raise ValueError(
            f"pairs.weights gives {names[places.index(min(places))]} no place in a batch of "
            f"{batch_size}; raise its weight, or leave the corpus out"
        )
    return dict(zip(names, places, strict=True))


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
