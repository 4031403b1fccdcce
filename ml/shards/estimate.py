"""What a build of shards will take, before it begins: hours of audio, disk and time.

Sizes and speeds are figures found once (44.1 kHz stereo WAV, one core of a server), good enough to
refuse a disk that is too small and to tell an hour from a night.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from ml.artifacts import DataLayout
from ml.shards.index import Payload
from ml.shards.plan import BuildPlan, ShardConfig, plan_build, read_inputs

BYTES_PER_STEM_S: Mapping[Payload, float] = {"flac": 18_000.0, "pcm16": 32_200.0}
"""On disk, for a second of stem audio as listed, silence that is left out included."""

STEM_S_PER_S: Mapping[Payload, float] = {"flac": 500.0, "pcm16": 700.0}
"""Seconds of stem audio that one process encodes in a second."""

MARGIN = 1.1
"""A build wants this many times its estimate free on the disk."""


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
