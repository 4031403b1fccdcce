"""Are the shards of a corpus whole, and what is in them? For people and for asset checks.

A *report* holds the hours and stems of the current shards and names those that are damaged; the
*new hours* are those that a model was not trained on: is another training worth it?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.artifacts import DataLayout
from ml.progress import progress
from ml.shards.folders import LocalFolder, Shard, ShardFolder
from ml.shards.index import DamagedShardError, read_shards_manifest
from ml.tracks import MUSIC


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
        ml.object_store.RemoteError: they lie at a URL that cannot be read.
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
        problems += _wrong_checksum(folder, Shard.of(index), entry["sha256"])
    return ShardReport(
        summary=manifest["summary"],
        splits=tuple(sorted({entry["split"] for entry in shards})),
        n_shards=len(shards),
        n_bytes=sum(entry["bytes"] for entry in shards),
        label_encoder=manifest["label_encoder"],
        stored_stems=dict(labels.most_common()),
        problems=tuple(problems),
    )


def _wrong_checksum(folder: ShardFolder, shard: Shard, expected: str) -> list[str]:
    """Say what is wrong with the bytes of a tar, if anything is."""
    where = folder.where(shard.name)
    try:
        checksum = folder.checksum(shard)
    except FileNotFoundError:
        return [f"{where} does not exist"]
    if checksum != expected:
        return [f"{where} has SHA-256 {checksum}, expected {expected}"]
    return []


def new_training_hours(
    layout: DataLayout, corpora: Sequence[str], training_tracks: Sequence[Mapping[str, Any]]
) -> float:
    """Count the hours of tracks that training would use now and that a model has not seen.

    Args:
        layout: where shards and ``corpus_tracks`` lie.
        corpora: what is trained on.
        training_tracks: of the model, from its manifest; empty: no model, everything is new.

    Returns:
        Hours, each track counted once, at its longest stem.

    Raises:
        ArtifactError: a corpus has no shards or no ``corpus_tracks``.
    """
    from ml.corpora.table import read_corpus_tracks

    known = {(track["corpus"], track["track_id"]) for track in training_tracks}
    seconds = 0.0
    for corpus in corpora:
        shards = read_shards_manifest(layout.shards(corpus))["shards"]
        used = {t for shard in shards if shard["split"] == "train" for t in shard["tracks"]}
        new = {track for track in used if (corpus, track) not in known}
        lengths: dict[str, float] = {}
        table = read_corpus_tracks(layout, corpus)
        for track, duration_s in table.select("track_id", "duration_s").iter_rows():
            if track in new:
                lengths[track] = max(lengths.get(track, 0.0), duration_s or 0.0)
        seconds += sum(lengths.values())
    return seconds / 3600
