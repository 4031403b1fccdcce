"""Which tracks go into which shard, and what making the shards will take.

A shard is one *task*, and whole tracks stay together. Planning decodes nothing. A first (or fresh)
plan cuts the tracks of each split, in the corpus's order, into groups of about ``shard_segments``
segments. A later plan keeps the groups of the shards that exist, without tracks that left and with
changed ones where they were, and puts new tracks into new groups: so a change touches only the
shards it concerns. What a task was made from is its fingerprint, so a shard that is there already
is known by the task its index names.

Hours, disk and time are told before a build begins, by sizes and speeds found once (44.1 kHz stereo
WAV, one core of a server): good enough to refuse a disk that is too small and to tell an hour from
a night.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ml import kinds
from ml.artifacts import ArtifactError, DataLayout, fingerprint, read_manifest
from ml.audio.activity import ActivityConfig
from ml.plain import jsonable
from ml.shards.folders import LocalFolder, ShardFolder
from ml.shards.index import INDEX_SUFFIX, Payload, ShardIndex, read_shards_manifest
from ml.tracks import MUSIC, Split, Track

if TYPE_CHECKING:
    from ml.settings import ShardSettings

BYTES_PER_STEM_S: Mapping[Payload, float] = {"flac": 18_000.0, "pcm16": 32_200.0}
"""On disk, for a second of stem audio as listed, silence that is left out included."""

STEM_S_PER_S: Mapping[Payload, float] = {"flac": 500.0, "pcm16": 700.0}
"""Seconds of stem audio that one process encodes in a second."""

MARGIN = 1.1
"""A build wants this many times its estimate free on the disk."""


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


def shard_config(settings: ShardSettings) -> ShardConfig:
    """Convert the section ``shards`` of the settings.

    Raises:
        ValueError: values that do not go together; names them.
    """
    activity = ActivityConfig(**settings.activity.model_dump())
    return ShardConfig(segment_s=settings.segment_s, payload=settings.payload, activity=activity)


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
                "format_version": kinds.STEM_SHARDS.format_version,
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
            {
                "format_version": kinds.STEM_SHARDS.format_version,
                "config": config,
                "tracks": self._tracks(),
            }
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


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """Every shard of a corpus as it should be, and what there is of it."""

    tasks: Mapping[str, ShardTask]
    """By fingerprint, in the order of the manifest."""
    finished: Mapping[str, ShardIndex]
    """Shards of these tasks that exist, by the fingerprint of the task; without segments."""
    copies: Mapping[str, str]
    """Fingerprint of a task → name of a shard that exists and differs in labels alone."""
    replaced: tuple[str, ...]
    """Shards of the manifest that will not be in the next one."""

    @property
    def to_encode(self) -> list[ShardTask]:
        """The tasks whose audio must be decoded."""
        return [
            task
            for key, task in self.tasks.items()
            if key not in self.finished and key not in self.copies
        ]

    @property
    def encode_s(self) -> float:
        """Audio to decode, in seconds of stems as listed."""
        return sum(planned.stem_s for task in self.to_encode for planned in task.tracks)


def read_inputs(name: str, layout: DataLayout) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the manifests of ``corpus_tracks`` and ``label_embeddings``.

    Raises:
        ArtifactError: one of them was not built.
    """
    return (
        read_manifest(layout.tracks(name), kinds.CORPUS_TRACKS),
        read_manifest(layout.labels(name), kinds.LABEL_EMBEDDINGS),
    )


def plan_build(
    name: str,
    layout: DataLayout,
    config: ShardConfig,
    label_encoder: object,
    *,
    place: ShardFolder | None = None,
    fresh: bool = False,
) -> BuildPlan:
    """Plan the shards of a corpus; decodes and writes nothing.

    Args:
        name: the corpus.
        layout: where everything lies.
        config: how to store.
        label_encoder: as ``label_embeddings`` describes it.
        place: where the shards lie; None: in the home.
        fresh: make every shard anew, in a plan that ignores the shards that exist.
    """
    folder = layout.shards(name)
    try:
        manifest = read_shards_manifest(folder)
    except ArtifactError:
        manifest = {"config": None, "shards": []}
    previous = [] if fresh else _assignments(manifest, config)
    planned = plan_shards(_planned_tracks(name, layout, config), config, previous)
    tasks = {task.fingerprint(config, label_encoder): task for task in planned}
    there = [] if fresh else _finished_shards(place or LocalFolder(folder))
    finished = {index.task: index for index in there if index.task in tasks}
    current = {index.name for index in finished.values()}
    return BuildPlan(
        tasks=tasks,
        finished=finished,
        copies=_copies(tasks, finished, there, config),
        replaced=tuple(x["name"] for x in manifest["shards"] if x["name"] not in current),
    )


def _assignments(manifest: Mapping[str, Any], config: ShardConfig) -> list[Assignment]:
    """Read the assignment of the shards that exist; none where they were stored in another way."""
    if manifest["config"] != jsonable(config):
        return []
    return [
        Assignment(split=x["split"], number=x["number"], track_ids=tuple(x["tracks"]))
        for x in manifest["shards"]
    ]


def _planned_tracks(name: str, layout: DataLayout, config: ShardConfig) -> list[PlannedTrack]:
    from ml.corpora.table import read_corpus_tracks, tracks_of_table

    table = read_corpus_tracks(layout, name)
    hashes = dict(zip(table["stem_id"], table["content_hash"], strict=True))
    durations = dict(zip(table["stem_id"], table["duration_s"], strict=True))
    return [
        PlannedTrack(
            corpus=name,
            track=track,
            split=track.split or choose_split(name, track.track_id, config),
            duration_s=max(durations[stem.stem_id] for stem in track.stems),
            content_hashes=tuple(hashes[stem.stem_id] for stem in track.stems),
        )
        for track in tracks_of_table(table)
        if len(track.stems) >= 2
    ]


def _finished_shards(place: ShardFolder) -> list[ShardIndex]:
    """Read the indexes of the shards that are whole: the index is there, and its tar in its size.

    An index that is damaged or of another format is passed over: its shard is made again.
    """
    sizes = place.sizes()
    names = sorted(x for x in sizes if x.endswith(INDEX_SUFFIX) and not x.startswith("."))
    tars = [name.removesuffix(INDEX_SUFFIX) + ".tar" for name in names]
    return [
        index
        for index in place.indexes(tars, has_segments=False)
        if isinstance(index, ShardIndex) and sizes.get(index.name) == index.bytes
    ]


def _copies(
    tasks: Mapping[str, ShardTask],
    finished: Mapping[str, ShardIndex],
    there: Sequence[ShardIndex],
    config: ShardConfig,
) -> dict[str, str]:
    """Name a shard with the same audio for each task that is not finished but has one."""
    by_audio = {index.audio: index.name for index in there if index.audio}
    if not by_audio:  # a first build: a fingerprint of every task would be for nothing
        return {}
    audio = {
        key: task.audio_fingerprint(config) for key, task in tasks.items() if key not in finished
    }
    return {key: by_audio[x] for key, x in audio.items() if x in by_audio}


def choose_split(corpus: str, track_id: str, config: ShardConfig) -> Split:
    """Choose the split of a track that has none published: by its name alone, so it stays."""
    digest = hashlib.sha256(f"{corpus}/{track_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    if place < config.test_share:
        return "test"
    return "valid" if place < config.test_share + config.valid_share else "train"


def plan_shards(
    tracks: Iterable[PlannedTrack], config: ShardConfig, previous: Sequence[Assignment] = ()
) -> list[ShardTask]:
    """Cut the tracks of a corpus into tasks, by split and number.

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


class DiskSpaceError(ValueError):
    """The disk has too little room for a build."""


def new_bytes(plan: BuildPlan, folder: Path, config: ShardConfig) -> float:
    """Estimate what a build adds on disk, by encoding and by copying."""
    copied = sum((folder / source).stat().st_size for source in plan.copies.values())
    return plan.encode_s * BYTES_PER_STEM_S[config.payload] + copied


def check_disk(
    plan: BuildPlan, folder: Path, config: ShardConfig, *, free_bytes: int | None = None
) -> None:
    """Refuse a build that the disk has no room for.

    Args:
        plan: what is to be built.
        folder: where the shards go.
        config: how they are stored.
        free_bytes: room on the disk; None: ask the system.

    Raises:
        DiskSpaceError: says what is free, what is needed and what to do.
    """
    free = _free_bytes(folder) if free_bytes is None else free_bytes
    needed = MARGIN * new_bytes(plan, folder, config)
    if free < needed:
        raise DiskSpaceError(
            f"{folder} has {_size(free)} free, but {len(plan.to_encode) + len(plan.copies)} new "
            f"shards need about {_size(needed)} ({plan.encode_s / 3600:.1f} h of stems to encode); "
            "make room (stems gc lists what nothing uses), or move STEMS_HOME to a larger disk"
        )


def describe_build(
    name: str, layout: DataLayout, config: ShardConfig, *, workers: int, fresh: bool = False
) -> str:
    """Say in two lines what a build of the shards of a corpus would take; write nothing.

    Raises:
        ArtifactError: ``corpus_tracks`` or ``label_embeddings`` was not built.
    """
    folder = layout.shards(name)
    _, labels = read_inputs(name, layout)
    plan = plan_build(name, layout, config, labels["encoder"], fresh=fresh)
    tracks = [planned for task in plan.tasks.values() for planned in task.tracks]
    processes = max(1, min(workers, len(plan.to_encode)))
    minutes = math.ceil(plan.encode_s / (60 * STEM_S_PER_S[config.payload] * processes))
    return (
        f"{name}: {len(tracks)} tracks, {sum(x.stem_s for x in tracks) / 3600:.2f} h of stems; "
        f"shards to make: {len(plan.to_encode)} ({plan.encode_s / 3600:.2f} h), to copy with new "
        f"labels: {len(plan.copies)}, to keep: {len(plan.finished)}, to be replaced: "
        f"{len(plan.replaced)}\n"
        f"disk: about {_size(new_bytes(plan, folder, config))} more, of "
        f"{_size(_free_bytes(folder))} free; time: about {minutes // 60} h {minutes % 60} min "
        f"with {processes} processes"
    )


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.2f} MB"


def _free_bytes(folder: Path) -> int:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free
