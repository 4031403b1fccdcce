"""Which tracks go into which shard; a shard is one task, and whole tracks stay together.

Planning decodes nothing. A first (or fresh) plan cuts the tracks of each split, in the corpus's
order, into groups of about ``shard_segments`` segments. A later plan keeps the groups of the shards
that exist, without tracks that left and with changed ones where they were, and puts new tracks into
new groups: so a change touches only the shards it concerns.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from ml.artifacts import fingerprint
from ml.audio.activity import ActivityConfig
from ml.corpora.corpus import MUSIC, Split, Track
from ml.shards.index import FORMAT_VERSION, Payload


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """How training audio is stored."""

    rate_hz: int = 16000
    """Sampling rate of the stored audio."""
    segment_s: float = 16.0
    """Longest segment; a track is cut into equal segments of at most this length."""
    payload: Payload = "flac"
    """``flac``: half the size; ``pcm16``: plain WAV, faster to read."""
    shard_segments: int = 256
    """About how many segments a shard holds."""
    chunk_s: float = 8.0
    """A segment is kept when some chunk of this length has two sounding stems."""
    activity: ActivityConfig = field(default_factory=ActivityConfig)
    """The silence rule; a stem is stored where it sounds for ``activity.min_active_s``."""
    valid_share: float = 0.05
    """Share of the tracks without a published split that is used for validation."""
    test_share: float = 0.0
    """Share of the tracks without a published split that is held out."""

    def __post_init__(self) -> None:
        if self.payload not in get_args(Payload):
            raise ValueError(f"payload is {self.payload!r}; expected 'flac' or 'pcm16'")
        for name in ("rate_hz", "segment_s", "shard_segments", "chunk_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        shares = (self.valid_share, self.test_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(
                f"valid_share and test_share are {shares}; expected each ≥ 0, at most 1 together"
            )


@dataclass(frozen=True, kw_only=True)
class PlannedTrack:
    """A track with at least two usable stems."""

    corpus: str
    track: Track
    split: Split
    duration_s: float
    """As listed; used to plan, the audio itself says where segments end."""
    content_hashes: tuple[str, ...]
    """Fingerprint of the files of each stem."""

    @property
    def stem_s(self) -> float:
        """Audio of all stems in seconds, as listed and with their silences."""
        return self.duration_s * len(self.track.stems)

    @property
    def texts(self) -> list[str]:
        """Every text a stem of the track may be conditioned with."""
        return sorted({text for stem in self.track.stems for text in stem.labels or (MUSIC,)})


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The tracks of one shard, by id."""

    split: str
    number: int
    """Place among the shards of the split."""
    track_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """What one shard is to be made from."""

    split: Split
    number: int
    tracks: tuple[PlannedTrack, ...]

    def fingerprint(self, config: ShardConfig, label_encoder: object) -> str:
        """Equal for tasks that give the same bytes (by the same library versions)."""
        tracks = self._tracks()
        for described, planned in zip(tracks, self.tracks, strict=True):
            described |= {"artist": planned.track.artist, "title": planned.track.title}
            for entry, stem in zip(described["stems"], planned.track.stems, strict=True):
                entry["labels"] = stem.labels
        return fingerprint(
            {
                "format_version": FORMAT_VERSION,
                "split": self.split,
                "number": self.number,
                "config": config,
                "label_encoder": label_encoder,
                "tracks": tracks,
            }
        )

    def audio_fingerprint(self, config: ShardConfig) -> str:
        """Equal for tasks whose shards differ in labels, label vectors and name alone."""
        return fingerprint(
            {"format_version": FORMAT_VERSION, "config": config, "tracks": self._tracks()}
        )

    def _tracks(self) -> list[dict[str, Any]]:
        return [
            {
                "corpus": planned.corpus,
                "track_id": planned.track.track_id,
                "stems": [
                    {
                        "stem_id": stem.stem_id,
                        "start_s": stem.start_s,
                        "content_hash": content_hash,
                    }
                    for stem, content_hash in zip(
                        planned.track.stems, planned.content_hashes, strict=True
                    )
                ],
            }
            for planned in self.tracks
        ]


def choose_split(corpus: str, track_id: str, config: ShardConfig) -> Split:
    """Split of a track that has none published: by its name alone, so it never changes."""
    digest = hashlib.sha256(f"{corpus}/{track_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    if place < config.test_share:
        return "test"
    return "valid" if place < config.test_share + config.valid_share else "train"


def plan_shards(
    tracks: Iterable[PlannedTrack], config: ShardConfig, previous: Sequence[Assignment] = ()
) -> list[ShardTask]:
    """The tasks of a corpus, by split and number.

    Args:
        tracks: what to store, in the corpus's order.
        config: how.
        previous: what the shards that exist hold; kept as far as the tracks still do.
    """
    left = {(planned.split, planned.track.track_id): planned for planned in tracks}
    tasks = []
    for old in previous:
        keys = [(old.split, track_id) for track_id in old.track_ids]
        kept = tuple(left.pop(key) for key in keys if key in left)
        if kept:
            tasks.append(ShardTask(split=kept[0].split, number=old.number, tracks=kept))
    for split in get_args(Split):
        number = 1 + max((old.number for old in previous if old.split == split), default=-1)
        new = [planned for planned in left.values() if planned.split == split]
        for i, group in enumerate(_groups(new, config)):
            tasks.append(ShardTask(split=split, number=number + i, tracks=tuple(group)))
    return sorted(tasks, key=lambda task: (task.split, task.number))


def _groups(tracks: Sequence[PlannedTrack], config: ShardConfig) -> list[list[PlannedTrack]]:
    groups: list[list[PlannedTrack]] = []
    room = 0
    for planned in tracks:
        segments = max(1, math.ceil(planned.duration_s / config.segment_s))
        if segments > room:
            groups.append([])
            room = max(segments, config.shard_segments)
        groups[-1].append(planned)
        room -= segments
    return groups
