"""Corpus to shards: WebDataset tars of segments with their stems and label vectors.

One shard is one task for one process; nothing depends on the number of processes. A shard is
written aside, synced and renamed to a name that ends in a digest of its bytes, then its index; the
manifest comes last. An index says what its shard was made from, so an interrupted or repeated build
takes over every shard that is already there. Files are never changed once named, and files that the
manifest no longer lists are left alone: a running training may be reading them.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import reduce
from importlib.metadata import version
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from ml.artifacts import (
    Artifact,
    ArtifactError,
    DataLayout,
    find_current,
    finish,
    lock,
    read_manifest,
)
from ml.plain import jsonable
from ml.progress import progress
from ml.shards.index import (
    FORMAT_VERSION,
    INDEX_SUFFIX,
    ShardCounts,
    ShardIndex,
    read_index,
    read_shards_manifest,
)
from ml.shards.plan import (
    Assignment,
    PlannedTrack,
    ShardConfig,
    ShardTask,
    choose_split,
    plan_shards,
)
from ml.shards.tars import write_shard

LIBRARIES = ("av", "numpy", "soundfile", "soxr")
"""Libraries whose version may change the bytes; recorded in the manifest."""


def build_shards(
    name: str,
    layout: DataLayout,
    config: ShardConfig,
    *,
    workers: int = 1,
    fresh: bool = False,
) -> Artifact:
    """Make the shards of a corpus, or find that they are up to date.

    Args:
        name: the corpus; its ``corpus_tracks`` and ``label_embeddings`` must exist.
        layout: where everything lies.
        config: how to store.
        workers: number of processes.
        fresh: make every shard anew, in a plan that ignores the shards that exist.

    Raises:
        ArtifactError: an input is missing, or no segment of the corpus gives a pair.
        ml.audio.files.AudioError: a file is missing or cannot be decoded.
        ml.artifacts.LockedError: another process is building these shards.
    """
    folder = layout.shards(name)
    tracks_manifest, labels_manifest = _inputs(name, layout)
    identity = {
        "config": config,
        "corpus_tracks": tracks_manifest["fingerprint"],
        "label_embeddings": labels_manifest["fingerprint"],
    }
    found = find_current(folder, jsonable(identity), format_version=FORMAT_VERSION)
    if found and not fresh and _is_complete(folder):
        return found
    with lock(folder / ".lock"):
        for stale in folder.glob(".*.tmp"):
            stale.unlink()
        tasks = plan_shards(
            _planned_tracks(name, layout, config),
            config,
            () if fresh else _previous(folder, config),
        )
        encoder = labels_manifest["encoder"]
        vectors = _label_vectors(name, layout, tasks, encoder["fingerprint"])
        indexes = _make_all(tasks, config, encoder, vectors, folder, workers=workers, fresh=fresh)
        return _finish(folder, identity, indexes, encoder, config)


def _inputs(name: str, layout: DataLayout) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifests of ``corpus_tracks`` and ``label_embeddings``."""
    from ml.corpora import labels, table

    return (
        read_manifest(
            layout.tracks(name),
            format_version=table.FORMAT_VERSION,
            made_by=f"stems corpus build {name}",
        ),
        read_manifest(
            layout.labels(name),
            format_version=labels.FORMAT_VERSION,
            made_by=f"stems labels build {name}",
        ),
    )


def _is_complete(folder: Path) -> bool:
    """Whether every shard of the manifest is there, with its index and in its size."""
    for shard in read_shards_manifest(folder)["shards"]:
        tar, index = folder / shard["name"], folder / (Path(shard["name"]).stem + INDEX_SUFFIX)
        if not (index.is_file() and tar.is_file() and tar.stat().st_size == shard["bytes"]):
            return False
    return True


def _previous(folder: Path, config: ShardConfig) -> list[Assignment]:
    """The assignment of the shards that exist; none where they were stored in another way."""
    try:
        manifest = read_shards_manifest(folder)
    except ArtifactError:
        return []
    if manifest["format_version"] != FORMAT_VERSION or manifest["config"] != jsonable(config):
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


def _label_vectors(
    name: str, layout: DataLayout, tasks: Sequence[ShardTask], encoder_fingerprint: str
) -> dict[str, np.ndarray]:
    from ml.corpora.labels import read_label_vectors

    vectors = read_label_vectors(layout, name, encoder_fingerprint=encoder_fingerprint)
    needed = {text for task in tasks for planned in task.tracks for text in planned.texts}
    if missing := sorted(needed - vectors.keys()):
        raise ArtifactError(
            f"{layout.labels(name)} has no vector for {missing[0]!r} ({len(missing)} of "
            f"{len(needed)} label texts missing); make them with: stems labels build {name}"
        )
    return vectors


def _make_all(
    tasks: Sequence[ShardTask],
    config: ShardConfig,
    label_encoder: Mapping[str, Any],
    vectors: Mapping[str, np.ndarray],
    folder: Path,
    *,
    workers: int,
    fresh: bool,
) -> list[ShardIndex]:
    """The index of every task's shard, in the order of the tasks; writes those not there yet."""
    there = {} if fresh else _finished_shards(folder)
    fingerprints = [task.fingerprint(config, label_encoder) for task in tasks]
    made = {key: there[key] for key in fingerprints if key in there}
    jobs = [
        (task, config, _vectors_of(task, vectors), folder, key)
        for task, key in zip(tasks, fingerprints, strict=True)
        if key not in made
    ]
    for index in progress(_run(jobs, workers), total=len(jobs), label=f"shards {folder.name}"):
        made[index.task] = index
    return [made[key] for key in fingerprints]


def _run(jobs: Sequence[tuple[Any, ...]], workers: int) -> Iterator[ShardIndex]:
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield write_shard(*job)
        return
    # Spawned, not forked: a fork of a process with the threads of polars or torch may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        try:
            for done in as_completed([pool.submit(write_shard, *job) for job in jobs]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _vectors_of(task: ShardTask, vectors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {text: vectors[text] for planned in task.tracks for text in planned.texts}


def _finished_shards(folder: Path) -> dict[str, ShardIndex]:
    """The shards on disk by the fingerprint of their task."""
    found = {}
    for path in sorted(folder.glob(f"*{INDEX_SUFFIX}")):
        try:
            index = read_index(path)
        except ArtifactError:
            continue  # of another format, or damaged: its shard is made again
        tar = folder / index.name
        if tar.is_file() and tar.stat().st_size == index.bytes:
            found[index.task] = index
    return found


def _finish(
    folder: Path,
    identity: Mapping[str, Any],
    indexes: Sequence[ShardIndex],
    label_encoder: Mapping[str, Any],
    config: ShardConfig,
) -> Artifact:
    splits = sorted({index.split for index in indexes})
    by_split = {
        split: reduce(add, (index.counts for index in indexes if index.split == split))
        for split in splits
    }
    total = reduce(add, by_split.values(), ShardCounts())
    if total.segments == 0:
        raise ArtifactError(
            f"corpus {folder.name!r} gives no training pair: {total.dropped_segments} segments, "
            f"none with two stems that sound in {config.chunk_s:g} s; see what its stems hold "
            f"with: stems corpus inspect"
        )
    summary = _summary(total) | {"shards": len(indexes)}
    for split, counts in by_split.items():
        summary |= {f"{split}_{key}": value for key, value in _summary(counts).items()}
    return finish(
        folder,
        jsonable(identity),
        format_version=FORMAT_VERSION,
        summary=summary,
        config=config,
        label_encoder=label_encoder,
        libraries={library: version(library) for library in LIBRARIES},
        shards=[
            {
                "name": index.name,
                "split": index.split,
                "number": index.number,
                "sha256": index.sha256,
                "bytes": index.bytes,
                "segments": index.counts.segments,
                "tracks": index.assigned,
            }
            for index in indexes
        ],
    )


def _summary(counts: ShardCounts) -> dict[str, Any]:
    return {
        "tracks": counts.tracks,
        "segments": counts.segments,
        "hours": round(counts.segment_s / 3600, 4),
        "stem_hours": round(counts.stem_s / 3600, 4),
        "dropped_segments": counts.dropped_segments,
        "dropped_hours": round(counts.dropped_segment_s / 3600, 4),
        "dropped_stem_hours": round(counts.dropped_stem_s / 3600, 4),
    }
