"""What a build of shards will take: hours, disk and time, at the rates of the last build.

Every real build records its rates in ``STEMS_HOME/shards/rates.json``; before the first one the
defaults here stand in for them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ml.artifacts import ArtifactError, DataLayout, read_json, write_json
from ml.shards.index import Payload
from ml.shards.plan import BuildPlan, ShardConfig, plan_build, read_inputs

RATES_NAME = "rates.json"

MARGIN = 1.1
"""A build wants this many times its estimate free on the disk."""

_MIN_MEASURED_S = 60.0
"""Builds that encode less stem audio than this tell nothing about rates."""


class DiskSpaceError(ValueError):
    """The disk has too little room for a build."""


@dataclass(frozen=True, kw_only=True)
class BuildRates:
    """What building costs."""

    stem_s_per_s: float
    """Seconds of stem audio that one process encodes in a second."""
    bytes_per_stem_s: float
    """Disk bytes for a second of stem audio as listed, silence that is left out included."""
    is_measured: bool = True
    """By a build in this home; False: the defaults."""


DEFAULT_RATES: Mapping[Payload, BuildRates] = {
    "flac": BuildRates(stem_s_per_s=500.0, bytes_per_stem_s=18_000.0, is_measured=False),
    "pcm16": BuildRates(stem_s_per_s=700.0, bytes_per_stem_s=32_200.0, is_measured=False),
}
"""44.1 kHz stereo WAV on one core of a server; FLAC at 16 kHz takes about 0.56 of PCM16."""


@dataclass(frozen=True, kw_only=True)
class BuildEstimate:
    """What ``stems shards build`` would do now."""

    tracks: int
    stem_s: float
    """Audio of all stems of the corpus, with their silences."""
    encode_s: float
    """Of it, what is decoded and encoded."""
    made: int
    """Shards to be encoded."""
    copied: int
    """Shards whose audio is copied, with new labels."""
    kept: int
    """Shards that are there already."""
    replaced: int
    """Shards that leave the manifest; their files stay until ``stems gc --delete``."""
    new_bytes: float
    """What the build adds on disk."""
    free_bytes: float
    """What is free on the disk."""
    duration_s: float
    rates: BuildRates


def estimate_build(
    name: str, layout: DataLayout, config: ShardConfig, *, workers: int = 1, fresh: bool = False
) -> BuildEstimate:
    """What building the shards of a corpus would take; writes nothing.

    Raises:
        ArtifactError: ``corpus_tracks`` or ``label_embeddings`` was not built.
    """
    _, labels = read_inputs(name, layout)
    plan = plan_build(name, layout, config, labels["encoder"], fresh=fresh)
    return estimate_plan(plan, layout.shards(name), config, workers=workers)


def estimate_plan(
    plan: BuildPlan,
    folder: Path,
    config: ShardConfig,
    *,
    workers: int,
    free_bytes: int | None = None,
) -> BuildEstimate:
    """The same for a plan that is made already.

    Args:
        plan: what is to be built.
        folder: the shards of the corpus.
        config: how they are stored.
        workers: number of processes.
        free_bytes: room on the disk; None: ask the system.
    """
    rates = read_rates(folder.parent, config.payload)
    to_encode = plan.to_encode
    encode_s = sum(planned.stem_s for task in to_encode for planned in task.tracks)
    tracks = [planned for task in plan.tasks.values() for planned in task.tracks]
    copied = sum((folder / source).stat().st_size for source in plan.copies.values())
    processes = max(1, min(workers, len(to_encode)))
    return BuildEstimate(
        tracks=len(tracks),
        stem_s=sum(planned.stem_s for planned in tracks),
        encode_s=encode_s,
        made=len(to_encode),
        copied=len(plan.copies),
        kept=len(plan.finished),
        replaced=len(plan.replaced),
        new_bytes=encode_s * rates.bytes_per_stem_s + copied,
        free_bytes=_free_bytes(folder) if free_bytes is None else free_bytes,
        duration_s=encode_s / (rates.stem_s_per_s * processes),
        rates=rates,
    )


def check_disk(estimate: BuildEstimate, folder: Path) -> None:
    """Refuse a build that the disk has no room for.

    Args:
        estimate: of the build.
        folder: where the shards go.

    Raises:
        DiskSpaceError: says what was found, what is needed and what to do.
    """
    needed = estimate.new_bytes * MARGIN
    if estimate.free_bytes < needed:
        raise DiskSpaceError(
            f"{folder} has {size_text(estimate.free_bytes)} free, but "
            f"{estimate.made + estimate.copied} new shards need about {size_text(needed)} "
            f"({estimate.encode_s / 3600:.1f} h of stems to encode); make room (stems gc lists "
            "what nothing uses), or move STEMS_HOME to a larger disk"
        )


def read_rates(folder: Path, payload: Payload) -> BuildRates:
    """The rates of the last build in this home, else the defaults.

    Args:
        folder: where the shards of all corpora lie.
        payload: of the shards.
    """
    try:
        return BuildRates(**read_json(folder / RATES_NAME)[payload])
    except (ArtifactError, KeyError, TypeError):
        return DEFAULT_RATES[payload]


def record_rates(
    folder: Path, payload: Payload, *, stem_s: float, new_bytes: int, process_s: float
) -> None:
    """Remember what a build took; too short ones are not remembered.

    Args:
        folder: where the shards of all corpora lie.
        payload: of the shards.
        stem_s: stem audio that was encoded.
        new_bytes: size of the shards made of it.
        process_s: wall time times number of processes.
    """
    if stem_s < _MIN_MEASURED_S or process_s <= 0:
        return
    measured = BuildRates(
        stem_s_per_s=round(stem_s / process_s, 1), bytes_per_stem_s=round(new_bytes / stem_s, 1)
    )
    path = folder / RATES_NAME
    known: dict[str, Any] = {}
    if path.is_file():
        try:
            known = dict(read_json(path))
        except (ArtifactError, TypeError, ValueError):
            known = {}  # a small file of figures that any build writes again
    write_json(path, known | {payload: asdict(measured)})


def size_text(n_bytes: float) -> str:
    """Bytes for people."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.2f} MB"


def _free_bytes(folder: Path) -> int:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free
