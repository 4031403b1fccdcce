"""Corpus to shards: WebDataset tars of segments with their stems and label vectors.

One shard is one task for one process, here or, through an executor, elsewhere; nothing depends on
how many there are. A shard is written aside, synced and renamed to a name that ends in a digest of
its bytes, then its index; the manifest comes last. An index says what its shard was made from, so
an interrupted or repeated build takes over every shard that is already there, and one that differs
in labels alone gives its audio.
Files are never changed once named, and files that the manifest no longer lists are left alone: a
running training may be reading them. A manifest that is replaced is kept under ``replaced/``, so
that ``ml.upkeep.collect`` can tell which files a training run still names; ``unfinished.json``
names the tasks of a build that has not come to its end.

Processes that share no disk put their shards at a URL (``ml.shards.push.make_shard``). The home
keeps the manifest, which names the URL; finished shards are those whose index is there. Audio is
read from where the corpus lies: all processes must see it at the same paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from ml import kinds
from ml.artifacts import (
    MANIFEST_NAME,
    Artifact,
    ArtifactError,
    DataLayout,
    find_current,
    fingerprint,
    finish,
    read_json,
    write_json,
)
from ml.locks import lock
from ml.plain import jsonable
from ml.processes import completed, process_pool
from ml.progress import progress
from ml.shards.estimate import check_disk
from ml.shards.index import (
    REPLACED,
    UNFINISHED_NAME,
    ShardCounts,
    ShardIndex,
    read_shards_manifest,
)
from ml.shards.plan import (
    BuildPlan,
    ShardConfig,
    ShardTask,
    is_complete,
    plan_build,
    read_inputs,
    read_vectors,
)
from ml.shards.push import is_pushed, make_shard, push_manifest
from ml.shards.write import ShardJob

LIBRARIES = ("av", "numpy", "soundfile", "soxr")
"""Libraries whose version may change the bytes; recorded in the manifest."""


def build_shards(
    name: str,
    layout: DataLayout,
    config: ShardConfig,
    *,
    workers: int = 1,
    executor: Executor | None = None,
    uri: str | None = None,
    fresh: bool = False,
    free_bytes: int | None = None,
) -> Artifact:
    """Make the shards of a corpus, or find that they are up to date.

    Args:
        name: the corpus; its ``corpus_tracks`` and ``label_embeddings`` must exist.
        layout: where everything lies.
        config: how to store.
        workers: number of processes.
        executor: who makes the shards; None: this many processes of this machine.
        uri: where they go, as ``s3://bucket/prefix``; the corpus becomes a folder below it. None:
            where the last build has put them, if training reads them there, else into the home,
            which those who make them must share.
        fresh: make every shard anew, in a plan that ignores the shards that exist.
        free_bytes: room on the disk; None: ask the system.

    Raises:
        ArtifactError: an input is missing, or no segment of the corpus gives a pair.
        ml.shards.estimate.DiskSpaceError: the disk has no room; nothing was written.
        ml.audio.files.AudioError: a file is missing or cannot be decoded.
        ml.locks.LockedError: another process is building these shards.
        ml.processes.WorkersError: who should make them died or cannot be reached.
        ml.shards.folders.RemoteError: ``uri`` cannot be read or written.
    """
    folder = layout.shards(name)
    url = f"{uri.rstrip('/')}/{name}" if uri else _last_url(name, layout)
    tracks_manifest, labels_manifest = read_inputs(name, layout)
    identity = {
        "config": config,
        "corpus_tracks": tracks_manifest["fingerprint"],
        "label_embeddings": labels_manifest["fingerprint"],
    }
    found = find_current(folder, jsonable(identity), kinds.STEM_SHARDS)
    if found and not fresh and _is_there(folder, url):
        return found
    with lock(folder / ".lock"):
        for stale in folder.glob(".*.tmp"):
            stale.unlink()
        encoder = labels_manifest["encoder"]
        plan = plan_build(name, layout, config, encoder, fresh=fresh, url=url)
        if url is None:
            check_disk(plan, folder, config, free_bytes=free_bytes)
        vectors = read_vectors(name, layout, plan, encoder["fingerprint"])
        write_json(folder / UNFINISHED_NAME, {"tasks": list(plan.tasks)})
        jobs = _jobs(plan, config, vectors, folder, url)
        indexes = _make_all(plan, jobs, workers, executor)
        _keep_replaced(folder)
        artifact = finish_shards(folder, identity, indexes, encoder, config, url=url)
        if url is not None:
            push_manifest(folder, url)
        (folder / UNFINISHED_NAME).unlink()
        return artifact


def _last_url(name: str, layout: DataLayout) -> str | None:
    try:
        url = read_shards_manifest(layout.shards(name)).get("url")
    except ArtifactError:
        return None
    return url if url == layout.training_shards(name) else None


def _is_there(folder: Path, url: str | None) -> bool:
    """Whether all that the manifest lists is where it should be."""
    if read_shards_manifest(folder).get("url") != url:
        return False
    return is_complete(folder) if url is None else is_pushed(folder, url)


def _jobs(
    plan: BuildPlan,
    config: ShardConfig,
    vectors: Mapping[str, np.ndarray],
    folder: Path,
    url: str | None,
) -> list[ShardJob]:
    """One for each task whose shard is not there yet."""
    return [
        ShardJob(
            task=task,
            config=config,
            key=key,
            vectors=_vectors_of(task, vectors),
            folder=folder,
            url=url,
            copy_from=plan.copies.get(key),
        )
        for key, task in plan.tasks.items()
        if key not in plan.finished
    ]


def _make_all(
    plan: BuildPlan, jobs: Sequence[ShardJob], workers: int, executor: Executor | None
) -> list[ShardIndex]:
    """The index of every task's shard, in the order of the tasks; makes those of the jobs."""
    made = dict(plan.finished)
    if not jobs:
        return [made[key] for key in plan.tasks]
    label = f"shards {jobs[0].folder.name}"
    for index in progress(_run(jobs, workers, executor), total=len(jobs), label=label):
        made[index.task] = index
    return [made[key] for key in plan.tasks]


def _run(jobs: Sequence[ShardJob], workers: int, executor: Executor | None) -> Iterator[ShardIndex]:
    if executor is not None:
        yield from completed(executor, make_shard, jobs)
    elif workers <= 1 or len(jobs) <= 1:
        yield from map(make_shard, jobs)
    else:
        with process_pool(min(workers, len(jobs))) as pool:
            yield from completed(pool, make_shard, jobs)


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
    *,
    url: str | None = None,
) -> Artifact:
    """Write the manifest of shards that are all there.

    Args:
        folder: holds them.
        identity: what they were made from.
        indexes: of each, as ``write_shard`` returns them.
        label_encoder: ``name``, ``dim`` and ``fingerprint`` of what made the label vectors.
        config: how they were stored.
        url: where they lie, if not in the folder.

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
        kinds.STEM_SHARDS,
        summary=summary,
        config=config,
        label_encoder=label_encoder,
        libraries={library: _version(library) for library in LIBRARIES},
        **{} if url is None else {"url": url},
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
