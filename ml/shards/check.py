"""Are the shards of a corpus whole, and what is in them? For people and for asset checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.artifacts import ArtifactError, file_fingerprint
from ml.corpora.corpus import MUSIC
from ml.progress import progress
from ml.shards.index import index_path, read_index, read_shards_manifest


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


def check_shards(folder: Path) -> ShardReport:
    """Compare every shard with its checksum and count what the indexes list.

    Args:
        folder: the shards of a corpus.

    Raises:
        ArtifactError: there is no manifest.
    """
    manifest = read_shards_manifest(folder)
    shards = manifest["shards"]
    labels: Counter[str] = Counter()
    problems = []
    for entry in progress(shards, total=len(shards), label=f"checking {folder.name}"):
        path = folder / entry["name"]
        try:
            index = read_index(index_path(folder, entry["name"]))
        except ArtifactError as error:
            problems.append(str(error))
            continue
        labels.update(
            stem.labels[-1] if stem.labels else MUSIC
            for segment in index.segments
            for stem in segment.stems
        )
        if not path.is_file():
            problems.append(f"{path} does not exist")
        elif (found := file_fingerprint(path)) != entry["sha256"]:
            problems.append(f"{path} has SHA-256 {found}, expected {entry['sha256']}")
    return ShardReport(
        summary=manifest["summary"],
        splits=tuple(sorted({entry["split"] for entry in shards})),
        n_shards=len(shards),
        n_bytes=sum(entry["bytes"] for entry in shards),
        label_encoder=manifest["label_encoder"],
        stored_stems=dict(labels.most_common()),
        problems=tuple(problems),
    )
