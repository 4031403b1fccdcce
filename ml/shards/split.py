"""The segments of a split, read from the indexes of its shards and packed small enough to keep.

Only segments that can give a pair are kept. Whoever trains keeps them all in memory, once for all
worker processes.
"""

from __future__ import annotations

import logging
import pickle
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from ml.artifacts import ArtifactError
from ml.shards.folders import Shard, ShardFolder
from ml.shards.index import Damage, DamagedShardError, IndexedSegment, ShardIndex
from ml.shards.pairs import PairConfig, can_give_pair

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
