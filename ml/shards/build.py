"""Corpus to shards: WebDataset tars of segments with their stems and label vectors.

One shard is one task for one process, here or, through an executor, elsewhere; nothing depends on
how many there are. A shard is written aside, synced and renamed to a name that ends in a digest of
its bytes, then its index; the manifest comes last. An index says what its shard was made from, so
an interrupted or repeated build takes over every shard that is already there, and one that differs
in labels alone gives its audio.
Files are never changed once named, and files that the manifest no longer lists are left alone: a
running training may be reading them. A manifest that is replaced is kept under ``replaced/``, so
that ``ml.upkeep`` can tell which files a training run still names; ``unfinished.json``
names the tasks of a build that has not come to its end.

Processes that share no disk put their shards at a URL. The home keeps the manifest, which names the
URL. Audio is read from where the corpus lies: all processes must see it at the same paths.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial, reduce
from importlib.metadata import PackageNotFoundError, version
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from ml.locks import LockedError, lock
from ml.object_store import read_bytes
from ml.plain import jsonable
from ml.processes import cluster, completed, process_pool, scratch_folder
from ml.progress import progress
from ml.shards.folders import (
    LocalFolder,
    ShardFolder,
    get_shard,
    put_manifest,
    put_shard,
    url_folder,
)
from ml.shards.index import (
    REPLACED,
    UNFINISHED_NAME,
    ShardCounts,
    ShardIndex,
    index_path,
    read_shards_manifest,
)
from ml.shards.plan import (
    BuildPlan,
    ShardConfig,
    check_disk,
    plan_build,
    read_inputs,
    shard_config,
)
from ml.shards.write import ShardJob, write_shard

if TYPE_CHECKING:
    from ml.settings import Settings

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
        ml.shards.plan.DiskSpaceError: the disk has no room; nothing was written.
        ml.audio.files.AudioError: a file is missing or cannot be decoded.
        ml.locks.LockedError: another process is building these shards.
        ml.processes.WorkersError: who should make them died or cannot be reached.
        ml.object_store.RemoteError: ``uri`` cannot be read or written.
    """
    folder, place = layout.shards(name), _place(name, layout, uri)
    tracks_manifest, labels_manifest = read_inputs(name, layout)
    identity = {
        "config": config,
        "corpus_tracks": tracks_manifest["fingerprint"],
        "label_embeddings": labels_manifest["fingerprint"],
    }
    current = find_current(folder, jsonable(identity), kinds.STEM_SHARDS)
    if current and not fresh and _is_there(folder, place):
        if (folder / UNFINISHED_NAME).is_file():  # its maker was killed behind the manifest
            with contextlib.suppress(LockedError), lock(folder / ".lock"):
                (folder / UNFINISHED_NAME).unlink(missing_ok=True)
        return current
    with lock(folder / ".lock"):
        for stale in folder.glob(".*.tmp"):
            stale.unlink()
        encoder = labels_manifest["encoder"]
        plan = plan_build(name, layout, config, encoder, place=place, fresh=fresh)
        if place.url is None:
            check_disk(plan, folder, config, free_bytes=free_bytes)
        vectors = _read_vectors(name, layout, plan, encoder["fingerprint"])
        write_json(folder / UNFINISHED_NAME, {"tasks": list(plan.tasks)})
        indexes = dict(plan.finished)
        if jobs := _jobs(plan, config, vectors, folder):
            made = _make_all(jobs, place.url, workers, executor)
            for index in progress(made, total=len(jobs), label=f"shards {name}"):
                indexes[index.task] = index
        _keep_replaced(folder)
        in_order = [indexes[key] for key in plan.tasks]
        artifact = finish_shards(folder, identity, in_order, encoder, config, url=place.url)
        if place.url is not None:
            put_manifest(folder, place.url)
        (folder / UNFINISHED_NAME).unlink()
        return artifact


def build_configured(
    settings: Settings, name: str, *, workers: int = 1, fresh: bool = False
) -> Artifact:
    """Make the shards of a corpus as and where the settings say, by whom they say.

    Arguments, result and errors are those of ``build_shards``; audio that is rendered comes first.
    """
    from ml.corpora.registration import render_missing

    render_missing(settings, name, workers)
    with cluster(settings.compute.dask_scheduler) as executor:
        return build_shards(
            name,
            settings.layout,
            shard_config(settings.shards),
            workers=workers,
            executor=executor,
            uri=settings.build_uri,
            fresh=fresh,
        )


def _place(name: str, layout: DataLayout, uri: str | None) -> ShardFolder:
    """Decide where the shards go: see ``build_shards``, ``uri``."""
    folder = layout.shards(name)
    if uri:
        return url_folder(layout, f"{uri.rstrip('/')}/{name}")
    try:
        url = read_shards_manifest(folder).get("url")
    except ArtifactError:
        url = None
    if url is None or url != layout.training_shards(name):
        return LocalFolder(folder)
    return url_folder(layout, url)


def _is_there(folder: Path, place: ShardFolder) -> bool:
    """Whether all that the manifest of the home lists is where it should be, each in its size."""
    manifest = read_shards_manifest(folder)
    if manifest.get("url") != place.url:
        return False
    sizes = place.sizes()
    has_shards = all(
        sizes.get(shard["name"]) == shard["bytes"]
        and index_path(folder, shard["name"]).name in sizes
        for shard in manifest["shards"]
    )
    if not has_shards or MANIFEST_NAME not in sizes:
        return False
    content = (folder / MANIFEST_NAME).read_bytes()
    return place.url is None or read_bytes(place.where(MANIFEST_NAME)) == content


def _read_vectors(
    name: str, layout: DataLayout, plan: BuildPlan, encoder_fingerprint: str
) -> dict[str, np.ndarray]:
    """Read the condition of every label text of the planned tracks.

    Raises:
        ArtifactError: some are missing, or come from another encoder.
    """
    from ml.corpora.label_embeddings import read_label_vectors

    vectors = read_label_vectors(layout, name, encoder_fingerprint=encoder_fingerprint)
    tracks = (planned for task in plan.tasks.values() for planned in task.tracks)
    needed = {text for planned in tracks for text in planned.texts}
    if missing := sorted(needed - vectors.keys()):
        raise ArtifactError(
            f"{layout.labels(name)} has no vector for {missing[0]!r} ({len(missing)} of "
            f"{len(needed)} label texts missing); make them with: stems labels build {name}"
        )
    return vectors


def _jobs(
    plan: BuildPlan, config: ShardConfig, vectors: Mapping[str, np.ndarray], folder: Path
) -> list[ShardJob]:
    """Make one job for each task whose shard is not there yet."""
    return [
        ShardJob(
            task=task,
            config=config,
            key=key,
            vectors={text: vectors[text] for planned in task.tracks for text in planned.texts},
            folder=folder,
            copy_from=plan.copies.get(key),
        )
        for key, task in plan.tasks.items()
        if key not in plan.finished
    ]


def _make_all(
    jobs: Sequence[ShardJob], url: str | None, workers: int, executor: Executor | None
) -> Iterator[ShardIndex]:
    """Make the shards of the jobs; yield their indexes in whatever order they come."""
    make = partial(make_shard, url=url)
    if executor is not None:
        yield from completed(executor, make, jobs)
    elif workers <= 1 or len(jobs) <= 1:
        yield from map(make, jobs)
    else:
        with process_pool(min(workers, len(jobs))) as pool:
            yield from completed(pool, make, jobs)


def make_shard(job: ShardJob, *, url: str | None) -> ShardIndex:
    """Make one shard in the folder of its job or, by way of a temporary folder, at a URL.

    The temporary folder (in ``TMPDIR``, or the local directory of a Dask worker) wants room for two
    shards. Returns the index without its segments.

    Raises:
        ml.audio.files.AudioError: an audio file is missing or cannot be decoded.
        ml.object_store.RemoteError: the URL cannot be read or written.
    """
    if url is None:
        return write_shard(job)
    with tempfile.TemporaryDirectory(prefix="shards-", dir=scratch_folder()) as parent:
        folder = Path(parent) / job.folder.name
        folder.mkdir()
        if job.copy_from:
            get_shard(url, job.copy_from, folder)
        index = write_shard(replace(job, folder=folder))
        put_shard(folder / index.name, url)
    return index


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
        folder: holds them, or would: the manifest goes there.
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
