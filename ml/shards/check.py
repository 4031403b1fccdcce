"""Are the shards of a corpus whole, and what is in them? For people and for asset checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.corpora.corpus import MUSIC
from ml.progress import progress
from ml.shards.damage import DamagedShardError
from ml.shards.folders import LocalFolder, Shard, ShardFolder


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What ``check_shards`` found."""

    summary: Mapping[str, Any]
    """Tracks, segments, hours and dropped silence, in all and by split (``train_hours``…)."""
    splits: tuple[str, ...]
    n_shards: int
    n_bytes: int
    label_encoder: Mapping[str, Any]
    stored_stems: Mapping[str, int]
    """Stems by their finest label, most frequent first; a stem counts once per segment."""
    problems: tuple[str, ...]
    """One sentence for each damaged shard; empty when all is well."""


def check_shards(folder: Path | ShardFolder) -> ShardReport:
    """Compare every shard with its checksum and count what the indexes list.

    Args:
        folder: the shards of a corpus; ``ml.shards.folders.built_folder`` knows where they lie.

    Raises:
        ArtifactError: there is no manifest.
        ml.shards.remote.RemoteError: they lie at a URL that cannot be read.
    """
    if isinstance(folder, Path):
        folder = LocalFolder(folder)
    manifest = folder.manifest()
    shards = manifest["shards"]
    labels: Counter[str] = Counter()
    problems = []
    indexes = folder.indexes([entry["name"] for entry in shards])
    for entry, index in progress(
        zip(shards, indexes, strict=True), total=len(shards), label=f"checking {folder.name}"
    ):
        if isinstance(index, DamagedShardError):
            problems.append(index.damage.problem)
            continue
        labels.update(
            stem.labels[-1] if stem.labels else MUSIC
            for segment in index.segments
            for stem in segment.stems
        )
        problems += _problem(folder, Shard.of(index), entry["sha256"])
    return ShardReport(
        summary=manifest["summary"],
        splits=tuple(sorted({entry["split"] for entry in shards})),
        n_shards=len(shards),
        n_bytes=sum(entry["bytes"] for entry in shards),
        label_encoder=manifest["label_encoder"],
        stored_stems=dict(labels.most_common()),
        problems=tuple(problems),
    )


def _problem(folder: ShardFolder, shard: Shard, sha256: str) -> list[str]:
    where = folder.where(shard.name)
    try:
        found = folder.checksum(shard)
    except FileNotFoundError:
        return [f"{where} does not exist"]
    return [] if found == sha256 else [f"{where} has SHA-256 {found}, expected {sha256}"]
