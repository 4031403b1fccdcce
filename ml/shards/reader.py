"""Shards to batches of pairs, the same whatever the number of worker processes.

Batch i is a pure function of (shards, ``PairConfig``, seed, i): a run resumes by its number. Only
the byte ranges of the chosen chunks and stems are read. Needs numpy and torch alone, soundfile for
FLAC, and fsspec for shards at a URL.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ml.artifacts import ArtifactError
from ml.shards.batches import PairBatches
from ml.shards.folders import LocalFolder, ShardFolder
from ml.shards.index import Damage, split_fingerprint
from ml.shards.pairs import PairBatch, PairConfig
from ml.shards.split import (
    EmptySplitError,
    Manifests,
    MixedOrder,
    Order,
    SplitSegments,
    order_segments,
    read_split,
    refuse_empty,
)

__all__ = ["EmptySplitError", "ReadCounts", "ShardPairs"]

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ReadCounts:
    """What the batches of a ``ShardPairs`` have cost so far.

    Worker processes send their share with each batch, so batches read ahead are not in it yet.
    """

    pairs: int = 0
    bytes_read: int = 0
    """Of the tars, before decoding."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Samples in whose place others stand, by path or URL of the damaged shard; a shard whose index
    cannot be read counts with all its segments, once."""


class ShardPairs:
    """Training pairs of one or several folders of shards."""

    condition_dim: int
    """Length of a condition."""
    label_encoder: dict[str, Any]
    """Name, dim and fingerprint of what made the conditions."""
    fingerprints: list[str]
    """Content of the split's shards, one per folder: equal for equal bytes, whenever built."""
    tracks: list[tuple[str, str]]
    """(corpus, track_id); a batch's ``track`` points here, to the first of one song."""
    same_songs: int
    """Tracks whose song another corpus has too; they are never negatives of each other."""
    training_tracks: list[dict[str, Any]]
    """Of each track: ``corpus``, ``track_id``, ``artist``, ``title`` (None where unknown) and
    ``content_hash``, the list of its stems'."""
    training_labels: list[str]
    """Every label text that can be drawn as a condition, sorted; "music" not among them."""
    n_segments: int
    """Segments that can give a pair."""
    batches_per_epoch: int
    """The same in every epoch; the segments that fill no batch differ."""
    workers: int
    """Number of reading processes; 0: this one reads."""
    counts: ReadCounts
    """What was read and skipped so far."""

    def __init__(
        self,
        folders: Sequence[Path | ShardFolder],
        split: str = "train",
        config: PairConfig | None = None,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        is_pinned: bool = False,
        decoded_gb: float = 0.0,
    ) -> None:
        """Read the indexes.

        Args:
            folders: folders of shards, one a corpus, as paths or what ``training_folder`` gives;
                their label encoders must agree.
            split: which split to draw from.
            config: how to draw; default ``PairConfig()``.
            batch_size: pairs of the global batch, over all ranks.
            seed: decides order and draws.
            rank: this process; it takes the rows ``rank::world`` of each global batch.
            world: number of processes.
            workers: number of reading processes; 0: read in this one. Changes no result.
            is_pinned: batches of reading processes come in page-locked memory.
            decoded_gb: if the split's FLACs take no more than this when decoded (in each reading
                process), each is decoded once and kept in memory. Changes no result.

        Raises:
            EmptySplitError: the folders hold no segment of the split.
            ArtifactError: a folder or shard is missing or damaged, or the label encoders or rates
                of the folders differ.
            ml.object_store.RemoteError: a URL cannot be read.
        """
        config = config or PairConfig()
        if batch_size < 1 or batch_size % world or not 0 <= rank < world:
            raise ValueError(
                f"batch_size {batch_size}, rank {rank}, world {world}: expected a batch_size that "
                "is a multiple of world, and a rank below world"
            )
        opened = [LocalFolder(x) if isinstance(x, Path) else x for x in folders]
        manifests = {folder: folder.manifest() for folder in opened}
        self.label_encoder = _same(manifests, "label_encoder")
        self.condition_dim = int(self.label_encoder["dim"])
        self.fingerprints = [split_fingerprint(x["shards"], split) for x in manifests.values()]
        self.counts = ReadCounts()
        segments = read_split(manifests, split, config)
        for damage, samples in segments.skipped:
            self._skip(damage, samples)
        refuse_empty(segments, manifests, split, config)
        self.tracks, self.n_segments = segments.tracks, len(segments.segments)
        self.training_tracks = segments.described_tracks()
        self.training_labels = sorted(segments.labels)
        self.same_songs = int((segments.songs != np.arange(len(self.tracks))).sum())
        order = order_segments(segments, config, batch_size=batch_size, seed=seed)
        self.batches_per_epoch = order.batches_per_epoch
        _warn_of_repeats(order, split)
        _warn_of_small_cache(segments, config)
        self._dataset = PairBatches(
            split=segments,
            order=order,
            config=config,
            condition_dim=self.condition_dim,
            rows=range(rank, batch_size, world),
            keeps_decoded=max(1, workers) * segments.decoded_bytes <= decoded_gb * 1e9,
        )
        self.workers, self._is_pinned = workers, is_pinned

    def label_vectors(self) -> dict[str, np.ndarray]:
        """Read the condition of every text that a stem of the split is conditioned with.

        Returns:
            Text → (condition_dim,) float32, sorted by text; "music" where a stem has no label.

        Raises:
            ArtifactError: a shard is damaged.
        """
        return self._dataset.label_vectors()

    def batches(self, start: int = 0, stop: int = sys.maxsize) -> Iterator[PairBatch]:
        """Yield batches ``start``, ``start`` + 1, … up to ``stop``: this rank's rows of each.

        Worker processes read ahead, but not beyond ``stop``.

        Raises:
            DamagedShardError: a shard is missing or damaged; names shard and sample.
            ArtifactError: a shard cannot be fetched, or nothing can replace what was skipped.
        """
        numbers = range(start, stop)
        loader = DataLoader(
            self._dataset,
            batch_size=None,
            sampler=numbers,
            num_workers=self.workers,
            pin_memory=self._is_pinned,
            generator=torch.Generator(),  # else it would draw from torch's global state
        )
        for batch in loader if self.workers else map(self._dataset.__getitem__, numbers):
            if isinstance(batch, ArtifactError):
                raise batch
            self._count(batch)
            yield batch

    def _count(self, batch: PairBatch) -> None:
        self.counts.pairs += len(batch)
        self.counts.bytes_read += batch.bytes_read
        for damage in batch.skipped:
            self._skip(damage, 1)

    def _skip(self, damage: Damage, samples: int) -> None:
        """Count what was skipped, and say it once a shard."""
        if damage.shard not in self.counts.skipped:
            _log.warning("%s; its samples are skipped and counted", damage)
        self.counts.skipped[damage.shard] += samples


def _same(manifests: Manifests, entry: str) -> Any:
    """Read a manifest entry on which all folders must agree."""
    if not manifests:
        raise ValueError("no folder of shards given; expected at least one")
    (first, manifest), *others = manifests.items()
    for folder, other in others:
        if other[entry] != manifest[entry]:
            raise ArtifactError(
                f"{_place(first)} has {entry} {manifest[entry]}, {_place(folder)} has "
                f"{other[entry]}; expected the same: build the labels and shards of both with one "
                "setting"
            )
    return manifest[entry]


def _place(folder: ShardFolder) -> str:
    return folder.where("").rstrip("/")


def _warn_of_repeats(order: Order, split: str) -> None:
    if isinstance(order, MixedOrder):
        for _, part in order.parts:
            _warn_of_repeats(part, split)
    elif order.has_repeats:
        _log.warning(
            "split %s has %d tracks for batches of %d: a batch holds several pairs of a track",
            split,
            order.n_tracks,
            order.batch_size,
        )


def _warn_of_small_cache(segments: SplitSegments, config: PairConfig) -> None:
    """Warn where less is cached than mixed at a time: shards are fetched again and again."""
    cached = [(shard.bytes, folder.cache) for folder, shard in segments.shards if folder.cache]
    sizes = sorted(size for size, _ in cached)[-config.window_shards :]
    if cached and sum(sizes) > cached[0][1].limit_gb * 1e9:
        _log.warning(
            "the cache of %g GB is smaller than the %d shards read at a time (%.3g GB): shards are "
            "fetched more than once an epoch; raise shards.cache_gb or lower pairs.window_shards",
            cached[0][1].limit_gb,
            len(sizes),
            sum(sizes) / 1e9,
        )
