"""What a build of shards starts from: the tables of the corpus, and the shards that exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ml.artifacts import ArtifactError, DataLayout, read_manifest
from ml.plain import jsonable
from ml.shards.folders import url_folder
from ml.shards.index import (
    FORMAT_VERSION,
    INDEX_SUFFIX,
    ShardIndex,
    index_path,
    read_index_head,
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


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """Every shard of a corpus as it should be, and what there is of it."""

    tasks: Mapping[str, ShardTask]
    """By fingerprint, in the order of the manifest."""
    finished: Mapping[str, ShardIndex]
    """Shards that exist (without segments) by the fingerprint of their task, of these tasks only.
    """
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


def read_inputs(name: str, layout: DataLayout) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifests of ``corpus_tracks`` and ``label_embeddings``.

    Raises:
        ArtifactError: one of them was not built.
    """
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


def is_complete(folder: Path) -> bool:
    """Whether every shard of the manifest is there, with its index and in its size."""
    return all(
        index_path(folder, shard["name"]).is_file()
        and _has_size(folder / shard["name"], shard["bytes"])
        for shard in read_shards_manifest(folder)["shards"]
    )


def plan_build(
    name: str,
    layout: DataLayout,
    config: ShardConfig,
    label_encoder: object,
    *,
    fresh: bool = False,
    url: str | None = None,
) -> BuildPlan:
    """Plan the shards of a corpus; decodes and writes nothing.

    Args:
        name: the corpus.
        layout: where everything lies.
        config: how to store.
        label_encoder: as ``label_embeddings`` describes it.
        fresh: make every shard anew, in a plan that ignores the shards that exist.
        url: where the shards lie; None: in the home.
    """
    folder = layout.shards(name)
    listed = _listed(folder)
    tracks = _planned_tracks(name, layout, config)
    previous = [] if fresh else _assignments(folder, config)
    tasks = {
        task.fingerprint(config, label_encoder): task
        for task in plan_shards(tracks, config, previous)
    }
    there = [] if fresh else _finished_there(layout, url) if url else _finished_shards(folder)
    finished = {index.task: index for index in there if index.task in tasks}
    by_audio = {index.audio: index.name for index in there if index.audio}
    new = {key: task for key, task in tasks.items() if key not in finished} if by_audio else {}
    audio = {key: task.audio_fingerprint(config) for key, task in new.items()}
    current = {index.name for index in finished.values()}
    return BuildPlan(
        tasks=tasks,
        finished=finished,
        copies={key: by_audio[found] for key, found in audio.items() if found in by_audio},
        replaced=tuple(name for name in listed if name not in current),
    )


def read_vectors(
    name: str, layout: DataLayout, plan: BuildPlan, encoder_fingerprint: str
) -> dict[str, np.ndarray]:
    """The condition of every label text of the planned tracks.

    Raises:
        ArtifactError: some are missing, or come from another encoder.
    """
    from ml.corpora.labels import read_label_vectors

    vectors = read_label_vectors(layout, name, encoder_fingerprint=encoder_fingerprint)
    tracks = (planned for task in plan.tasks.values() for planned in task.tracks)
    needed = {text for planned in tracks for text in planned.texts}
    if missing := sorted(needed - vectors.keys()):
        raise ArtifactError(
            f"{layout.labels(name)} has no vector for {missing[0]!r} ({len(missing)} of "
            f"{len(needed)} label texts missing); make them with: stems labels build {name}"
        )
    return vectors


def _listed(folder: Path) -> list[str]:
    try:
        return [shard["name"] for shard in read_shards_manifest(folder)["shards"]]
    except ArtifactError:
        return []


def _assignments(folder: Path, config: ShardConfig) -> list[Assignment]:
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


def _finished_shards(folder: Path) -> list[ShardIndex]:
    found = []
    for path in sorted(folder.glob(f"*{INDEX_SUFFIX}")):
        try:
            index = read_index_head(path)
        except ArtifactError:
            continue  # of another format, or damaged: its shard is made again
        if _has_size(folder / index.name, index.bytes):
            found.append(index)
    return found


def _finished_there(layout: DataLayout, url: str) -> list[ShardIndex]:
    """The same at a URL: a shard is finished when its index is there, and its tar in its size."""
    from ml.shards.remote import file_sizes

    there = file_sizes(url)
    tars = [name.removesuffix(INDEX_SUFFIX) + ".tar" for name in sorted(there) if _is_index(name)]
    indexes = url_folder(layout, url).indexes(tars)
    return [
        replace(index, segments=())
        for index in indexes
        if isinstance(index, ShardIndex) and there.get(index.name) == index.bytes
    ]


def _is_index(name: str) -> bool:
    return name.endswith(INDEX_SUFFIX) and not name.startswith(".")


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
