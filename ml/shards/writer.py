"""Corpus to shards: WebDataset tars of segments with their stems and label vectors.

One shard is one task for one process; nothing depends on the number of processes. A shard is
written aside, synced and renamed to a name that ends in a digest of its bytes, then its index; the
manifest comes last. An index says what its shard was made from, so an interrupted or repeated build
takes over every shard that is already there, and one that differs in labels alone gives its audio.
Files are never changed once named, and files that the manifest no longer lists are left alone: a
running training may be reading them. A manifest that is replaced is kept under ``replaced/``, so
that ``ml.shards.collect`` can tell which files a training run still names; ``unfinished.json``
names the tasks of a build that has not come to its end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from ml.artifacts import (
    MANIFEST_NAME,
    Artifact,
    ArtifactError,
    DataLayout,
    find_current,
    fingerprint,
    finish,
    lock,
    read_json,
    write_json,
)
from ml.plain import jsonable
from ml.processes import process_pool
from ml.progress import progress
from ml.shards.estimate import check_disk, estimate_plan, record_rates
from ml.shards.index import (
    FORMAT_VERSION,
    REPLACED,
    UNFINISHED_NAME,
    ShardCounts,
    ShardIndex,
)
from ml.shards.inputs import BuildPlan, is_complete, plan_build, read_inputs, read_vectors
from ml.shards.plan import ShardConfig, ShardTask
from ml.shards.tars import ShardJob, write_shard

LIBRARIES = ("av", "numpy", "soundfile", "soxr")
"""Libraries whose version may change the bytes; recorded in the manifest."""


def build_shards(
    name: str,
    layout: DataLayout,
    config: ShardConfig,
    *,
    workers: int = 1,
    fresh: bool = False,
    free_bytes: int | None = None,
) -> Artifact:
    """Make the shards of a corpus, or find that they are up to date.

    Args:
        name: the corpus; its ``corpus_tracks`` and ``label_embeddings`` must exist.
        layout: where everything lies.
        config: how to store.
        workers: number of processes.
        fresh: make every shard anew, in a plan that ignores the shards that exist.
        free_bytes: room on the disk; None: ask the system.

    Raises:
        ArtifactError: an input is missing, or no segment of the corpus gives a pair.
        ml.shards.estimate.DiskSpaceError: the disk has no room; nothing was written.
        ml.audio.files.AudioError: a file is missing or cannot be decoded.
        ml.artifacts.LockedError: another process is building these shards.
    """
    folder = layout.shards(name)
    tracks_manifest, labels_manifest = read_inputs(name, layout)
    identity = {
        "config": config,
        "corpus_tracks": tracks_manifest["fingerprint"],
        "label_embeddings": labels_manifest["fingerprint"],
    }
    found = find_current(folder, jsonable(identity), format_version=FORMAT_VERSION)
    if found and not fresh and is_complete(folder):
        return found
    with lock(folder / ".lock"):
        for stale in folder.glob(".*.tmp"):
            stale.unlink()
        encoder = labels_manifest["encoder"]
        plan = plan_build(name, layout, config, encoder, fresh=fresh)
        estimate = estimate_plan(plan, folder, config, workers=workers, free_bytes=free_bytes)
        check_disk(estimate, folder)
        vectors = read_vectors(name, layout, plan, encoder["fingerprint"])
        write_json(folder / UNFINISHED_NAME, {"tasks": list(plan.tasks)})
        indexes = _make_all(plan, config, vectors, folder, workers=workers)
        _keep_replaced(folder)
        artifact = finish_shards(folder, identity, indexes, encoder, config)
        (folder / UNFINISHED_NAME).unlink()
        return artifact


def _make_all(
    plan: BuildPlan,
    config: ShardConfig,
    vectors: Mapping[str, np.ndarray],
    folder: Path,
    *,
    workers: int,
) -> list[ShardIndex]:
    """The index of every task's shard, in the order of the tasks; writes those not there yet."""
    jobs = [
        ShardJob(
            task=task,
            config=config,
            key=key,
            vectors=_vectors_of(task, vectors),
            folder=folder,
            copy_from=plan.copies.get(key),
        )
        for key, task in plan.tasks.items()
        if key not in plan.finished
    ]
    made = dict(plan.finished)
    started = time.perf_counter()
    for index in progress(_run(jobs, workers), total=len(jobs), label=f"shards {folder.name}"):
        made[index.task] = index
    if jobs and not plan.copies:
        record_rates(
            folder.parent,
            config.payload,
            stem_s=sum(planned.stem_s for job in jobs for planned in job.task.tracks),
            new_bytes=sum(made[job.key].bytes for job in jobs),
            process_s=(time.perf_counter() - started) * max(1, min(workers, len(jobs))),
        )
    return [made[key] for key in plan.tasks]


def _run(jobs: Sequence[ShardJob], workers: int) -> Iterator[ShardIndex]:
    if workers <= 1 or len(jobs) <= 1:
        yield from map(write_shard, jobs)
        return
    with process_pool(min(workers, len(jobs))) as pool:
        for done in as_completed([pool.submit(write_shard, job) for job in jobs]):
            yield done.result()


def _vectors_of(task: ShardTask, vectors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {text: vectors[text] for planned in task.tracks for text in planned.texts}


def _keep_replaced(folder: Path) -> None:
    """Keep the manifest that is about to be replaced: runs know their shards by it."""
    try:
        manifest = read_json(folder / MANIFEST_NAME)
        name = fingerprint(manifest["shards"])[:12]
    except (ArtifactError, KeyError, TypeError):
        return
    write_json(folder / REPLACED / f"{name}.json", manifest)


def finish_shards(
    folder: Path,
    identity: Mapping[str, Any],
    indexes: Sequence[ShardIndex],
    label_encoder: Mapping[str, Any],
    config: ShardConfig,
) -> Artifact:
    """Write the manifest of shards that are all there.

    Args:
        folder: holds them.
        identity: what they were made from.
        indexes: of each, as ``write_shard`` returns them.
        label_encoder: ``name``, ``dim`` and ``fingerprint`` of what made the label vectors.
        config: how they were stored.

    Raises:
        ArtifactError: no segment gives a pair.
    """
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
        libraries={library: _version(library) for library in LIBRARIES},
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


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:  # tracks of plain WAV need neither av nor soxr
        return None
