"""Shards to batches of pairs, the same whatever the number of worker processes.

Batch i is a pure function of (shards, ``PairConfig``, seed, i): a run resumes by its number. Only
the byte ranges of the chosen stems are read. Needs numpy and torch alone, and soundfile for FLAC.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ml.artifacts import ArtifactError, fingerprint
from ml.shards.index import (
    FULL_SCALE,
    IndexedStem,
    ShardIndex,
    index_path,
    read_index,
    read_shards_manifest,
)
from ml.shards.members import ShardMembers
from ml.shards.order import EpochOrder
from ml.shards.pairs import Pair, PairBatch, PairConfig, can_give_pair, collate, draw_pair

_log = logging.getLogger(__name__)


class EmptySplitError(ArtifactError):
    """The shards hold no segment of the split asked for."""


class ShardPairs:
    """Training pairs of one or several folders of shards."""

    condition_dim: int
    """Length of a condition."""
    label_encoder: dict[str, Any]
    """Name, dim and fingerprint of what made the conditions."""
    fingerprints: list[str]
    """Content of the split's shards, one per folder: equal for equal bytes, whenever built."""
    tracks: list[tuple[str, str]]
    """(corpus, track_id); a batch's ``track`` points here."""
    training_tracks: list[dict[str, Any]]
    """Of each track: ``corpus``, ``track_id`` and ``content_hash``, the list of its stems'."""
    training_labels: list[str]
    """Every label text that can be drawn as a condition, sorted; "music" not among them."""
    n_segments: int
    """Segments that can give a pair."""
    batches_per_epoch: int
    """The same in every epoch; the segments that fill no batch differ."""

    def __init__(
        self,
        folders: Sequence[Path],
        split: str = "train",
        config: PairConfig | None = None,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
    ) -> None:
        """Read the indexes.

        Args:
            folders: folders of shards, one a corpus; their label encoders must agree.
            split: which split to draw from.
            config: how to draw; default ``PairConfig()``.
            batch_size: pairs of the global batch, over all ranks.
            seed: decides order and draws.
            rank: this process; it takes the rows ``rank::world`` of each global batch.
            world: number of processes.
            workers: number of reading processes; 0: read in this one. Changes no result.

        Raises:
            EmptySplitError: the folders hold no segment of the split.
            ArtifactError: a folder or shard is missing or damaged, or the label encoders or rates
                of the folders differ.
        """
        config = config or PairConfig()
        if batch_size < 1 or batch_size % world or not 0 <= rank < world:
            raise ValueError(
                f"batch_size {batch_size}, rank {rank}, world {world}: expected a batch_size that "
                "is a multiple of world, and a rank below world"
            )
        manifests = {folder: read_shards_manifest(folder) for folder in folders}
        self.label_encoder = _same(manifests, "label_encoder")
        self.condition_dim = int(self.label_encoder["dim"])
        self.fingerprints = [
            fingerprint([x for x in manifest["shards"] if x["split"] == split])
            for manifest in manifests.values()
        ]
        shards = _read_indexes(manifests, split)
        segments = _Segments(shards, config)
        self.tracks, self.n_segments = segments.tracks, len(segments.segments)
        self.training_tracks = segments.describe_tracks()
        self.training_labels = segments.labels()
        order = EpochOrder(
            tracks=segments.track_of,
            shards=segments.shard_of,
            batch_size=batch_size,
            seed=seed,
            window_shards=config.window_shards,
        )
        self.batches_per_epoch = order.batches_per_epoch
        if order.has_repeats:
            _log.warning(
                "split %s has %d tracks for batches of %d: a batch holds several pairs of a track",
                split,
                len(self.tracks),
                batch_size,
            )
        self._dataset = _Batches(segments, order, config, self.condition_dim, rank, world)
        self._workers = workers

    def batches(self, start: int = 0) -> Iterator[PairBatch]:
        """Batches ``start``, ``start`` + 1, … without end: this rank's rows of each.

        Raises:
            ArtifactError: a shard is missing or damaged; names shard and sample.
        """
        numbers = range(start, sys.maxsize)
        loader = DataLoader(
            self._dataset,
            batch_size=None,
            sampler=numbers,
            num_workers=self._workers,
            generator=torch.Generator(),  # else it would draw from torch's global state
        )
        for batch in loader if self._workers else map(self._dataset.__getitem__, numbers):
            if isinstance(batch, ArtifactError):
                raise batch
            yield batch


class _Segments:
    """All segments of a split that can give a pair, as flat lists."""

    def __init__(self, shards: Sequence[tuple[Path, ShardIndex]], config: PairConfig) -> None:
        self.shards = shards
        self.rate_hz = shards[0][1].rate_hz
        kept = [
            (place, segment)
            for place, (_, shard) in enumerate(shards)
            for segment in shard.segments
            if can_give_pair(segment, self.rate_hz, config)
        ]
        if not kept:
            raise ArtifactError(
                f"{shards[0][0].parent}: no segment has two stems that sound for "
                f"{config.min_active_s:g} s in a chunk of {config.chunk_s:g} s; "
                "lower min_active_s or use longer chunks"
            )
        dropped = sum(len(shard.segments) for _, shard in shards) - len(kept)
        if dropped:
            _log.info("%d segments have no chunk of %g s with a pair", dropped, config.chunk_s)
        self.segments = [segment for _, segment in kept]
        self.shard_of = np.array([place for place, _ in kept])  # (segment,)
        names = [(segment.corpus, segment.track_id) for segment in self.segments]
        self.tracks = list(dict.fromkeys(names))
        places = {track: i for i, track in enumerate(self.tracks)}
        self.track_of = np.array([places[name] for name in names])  # (segment,)

    def describe_tracks(self) -> list[dict[str, Any]]:
        """Corpus, id and the content hashes of the stems of each track."""
        hashes: list[set[str]] = [set() for _ in self.tracks]
        for track, segment in zip(self.track_of, self.segments, strict=True):
            hashes[track] |= {stem.content_hash for stem in segment.stems}
        return [
            {"corpus": corpus, "track_id": track_id, "content_hash": sorted(found)}
            for (corpus, track_id), found in zip(self.tracks, hashes, strict=True)
        ]

    def labels(self) -> list[str]:
        """All label texts."""
        return sorted({x for seg in self.segments for stem in seg.stems for x in stem.labels})


class _Batches(Dataset["PairBatch | ArtifactError"]):
    """Batch number → batch, or what is wrong with a shard.

    The error is returned, not raised: from a worker process the loader would raise it with a
    traceback for its message.
    """

    def __init__(
        self,
        segments: _Segments,
        order: EpochOrder,
        config: PairConfig,
        condition_dim: int,
        rank: int,
        world: int,
    ) -> None:
        self._segments = segments
        self._order = order
        self._per_epoch = order.batches_per_epoch
        self._config = config
        self._condition_dim = condition_dim
        self._rows = range(rank, order.batch_size, world)
        self._samples = round(config.chunk_s * segments.rate_hz)
        self._members = ShardMembers(segments.shards)
        self._epoch: tuple[int, np.ndarray] | None = None

    def __getitem__(self, index: int) -> PairBatch | ArtifactError:
        try:
            return self._batch(index)
        except ArtifactError as error:
            return error

    def _batch(self, index: int) -> PairBatch:
        epoch, batch = divmod(index, self._per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._order.batches(epoch))
        chosen = self._epoch[1][batch]  # (batch_size,)
        first = batch * self._order.batch_size
        pairs = [self._draw(int(chosen[row]), epoch, first + row) for row in self._rows]
        conditions = np.stack([self._condition(pair) for pair in pairs])
        return collate(pairs, self._samples, conditions, self._read)

    def _draw(self, place: int, epoch: int, position: int) -> Pair:
        """The pair of a segment, by the randomness of a position in an epoch."""
        segments = self._segments
        segment, shard = segments.segments[place], int(segments.shard_of[place])
        rng = np.random.default_rng([self._order.seed, epoch, 1 + position])  # 0: the order's

        def peaks(start: int) -> np.ndarray:
            found = []
            for stem in segment.stems:
                chunk = np.empty(self._samples, dtype=np.int16)
                self._members.read_chunk(shard, segment, stem, start, chunk)
                found.append(np.abs(chunk / FULL_SCALE).max() * stem.gain)
            return np.array(found)

        return Pair(
            draw=draw_pair(segment, segments.rate_hz, self._config, rng, peaks),
            segment=segment,
            shard=shard,
            track=int(segments.track_of[place]),
        )

    def _condition(self, pair: Pair) -> np.ndarray:
        """(condition_dim,) float32."""
        size = 2 * self._condition_dim
        offset = pair.segment.labels_offset + pair.draw.label_row * size
        row = self._members.read(pair.shard, pair.segment.key, offset, size)
        return np.frombuffer(row, dtype="<f2").astype(np.float32)

    def _read(self, pair: Pair, stem: IndexedStem, chunk: np.ndarray) -> None:
        self._members.read_chunk(pair.shard, pair.segment, stem, pair.draw.start, chunk)


def _same(manifests: dict[Path, dict[str, Any]], entry: str) -> Any:
    """A manifest entry on which all folders must agree."""
    if not manifests:
        raise ValueError("no folder of shards given; expected at least one")
    (first, manifest), *others = manifests.items()
    for folder, other in others:
        if other[entry] != manifest[entry]:
            raise ArtifactError(
                f"{first} has {entry} {manifest[entry]}, {folder} has {other[entry]}; expected the "
                "same: build the labels and shards of both with one setting"
            )
    return manifest[entry]


def _read_indexes(
    manifests: dict[Path, dict[str, Any]], split: str
) -> list[tuple[Path, ShardIndex]]:
    """(tar, index) of every shard of the split that holds a segment."""
    shards = [
        (folder / entry["name"], read_index(index_path(folder, entry["name"])))
        for folder, manifest in manifests.items()
        for entry in manifest["shards"]
        if entry["split"] == split and entry["segments"]
    ]
    if not shards:
        folders = ", ".join(str(folder) for folder in manifests)
        there = sorted({x["split"] for m in manifests.values() for x in m["shards"]})
        raise EmptySplitError(
            f"{folders} hold no segment of split {split!r}, only of {there}; train on a corpus "
            "that has one, or give its tracks this split"
        )
    rates = {shard.rate_hz for _, shard in shards}
    if len(rates) > 1:
        raise ArtifactError(
            f"shards of different rates {sorted(rates)}: {[str(x) for x in manifests]}; expected "
            "one rate: build them with one setting"
        )
    return shards
