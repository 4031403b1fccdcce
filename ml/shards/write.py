"""One task to one tar: samples in order, nothing of this machine or hour in the bytes.

[relabel] A shard with other labels: its audio members as they are, ``segment.json`` and vectors
anew.

Nothing is decoded, and the files of the corpus need not exist. The result is what encoding again
would give.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ml.artifacts import ArtifactError, file_fingerprint
from ml.shards.index import (
    IndexedSegment,
    IndexedStem,
    ShardCounts,
    ShardIndex,
    index_path,
    read_index,
    write_index,
)
from ml.shards.plan import ShardConfig, ShardTask
from ml.shards.segments import (
    Segment,
    SegmentStem,
    label_rows,
    label_texts,
    member_name,
    rows_of,
    track_segments,
)
from ml.tracks import Track


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One shard to be written, by whatever process."""

    task: ShardTask
    config: ShardConfig
    key: str
    """Fingerprint of the task."""
    vectors: Mapping[str, np.ndarray]
    """The condition of every label text of the tracks."""
    folder: Path
    """Where it goes, unless there is a URL; its name is that of the corpus."""
    url: str | None = None
    """Where it goes instead (``ml.shards.push.make_shard``)."""
    copy_from: str | None = None
    """Name of a shard of the same place whose audio is the same; None: decode."""


def write_shard(job: ShardJob) -> ShardIndex:
    """Write one shard and its index into the job's folder; returns the index without its segments.

    Audio is copied from another shard where the job names one that is intact.

    Raises:
        ml.audio.files.AudioError: an audio file is missing or cannot be decoded.
    """
    task, config, folder = job.task, job.config, job.folder
    source = read_intact(folder, job.copy_from) if job.copy_from else None
    handle, staged_name = tempfile.mkstemp(prefix=f".{task.split}.", suffix=".tmp", dir=folder)
    staged = Path(staged_name)
    try:
        with os.fdopen(handle, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                segments, counts = _write_tracks(tar, job, source)
            file.flush()
            os.fsync(file.fileno())
        digest = file_fingerprint(staged)
        path = folder / f"{task.split}-{task.number:06d}-{digest[:8]}.tar"
        staged.chmod(0o644)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    index = ShardIndex(
        name=path.name,
        split=task.split,
        number=task.number,
        task=job.key,
        audio=task.audio_fingerprint(config),
        sha256=digest,
        bytes=path.stat().st_size,
        rate_hz=config.rate_hz,
        payload=config.payload,
        assigned=tuple(planned.track.track_id for planned in task.tracks),
        counts=counts,
        segments=tuple(segments),
    )
    write_index(folder, index)
    return replace(index, segments=())


def _write_tracks(
    tar: tarfile.TarFile, job: ShardJob, source: ShardIndex | None
) -> tuple[list[IndexedSegment], ShardCounts]:
    if source is not None:
        segments = relabelled_segments(job.task, source, job.folder)
        return [_write_segment(tar, segment, job) for segment in segments], source.counts
    indexed: list[IndexedSegment] = []
    counts = ShardCounts()
    for planned in job.task.tracks:
        before = len(indexed)
        for segment in track_segments(planned, job.config):
            counts += _count(segment, job.config.rate_hz)
            if segment.stems:
                indexed.append(_write_segment(tar, segment, job))
        counts += ShardCounts(tracks=int(len(indexed) > before))
    return indexed, counts


def _write_segment(tar: tarfile.TarFile, segment: Segment, job: ShardJob) -> IndexedSegment:
    description = segment.description(job.config.rate_hz)
    _add_member(tar, f"{segment.key}.segment.json", description)
    stems = tuple(
        IndexedStem(
            stem_id=stem.stem.stem_id,
            content_hash=stem.content_hash,
            labels=stem.stem.labels,
            label_rows=stem.label_rows,
            four_class=stem.four_class,
            gain=stem.gain,
            intervals=stem.intervals,
            offset=_add_member(tar, f"{segment.key}.{stem.member}", stem.data),
            size=len(stem.data),
        )
        for stem in segment.stems
    )
    rows = label_rows(segment.texts, job.vectors)
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    offset = _add_member(tar, f"{segment.key}.labels.npy", buffer.getvalue())
    return IndexedSegment(
        key=segment.key,
        corpus=segment.corpus,
        track_id=segment.track_id,
        artist=segment.artist,
        title=segment.title,
        start_s=segment.start_s,
        samples=segment.samples,
        texts=segment.texts,
        labels_offset=offset + len(buffer.getvalue()) - rows.nbytes,
        stems=stems,
    )


def _add_member(tar: tarfile.TarFile, member: str, data: bytes) -> int:
    """Append a file to a tar, with nothing of this machine or hour in it.

    Returns:
        Where its data begins.
    """
    info = tarfile.TarInfo(member)
    info.size, info.mode, info.mtime = len(data), 0o444, 0
    tar.addfile(info, io.BytesIO(data))
    return tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _count(segment: Segment, rate_hz: int) -> ShardCounts:
    duration_s = segment.samples / rate_hz
    stored = len(segment.stems)
    return ShardCounts(
        segments=int(stored > 0),
        segment_s=duration_s if stored else 0.0,
        stem_s=duration_s * stored,
        dropped_segments=int(stored == 0),
        dropped_segment_s=0.0 if stored else duration_s,
        dropped_stem_s=duration_s * (segment.track_stems - stored),
    )


def read_intact(folder: Path, name: str) -> ShardIndex | None:
    """The index of a shard whose bytes are as its checksum says; None when damaged or gone."""
    try:
        index = read_index(index_path(folder, name))
        is_intact = file_fingerprint(folder / name) == index.sha256
    except (ArtifactError, OSError):
        return None
    return index if is_intact else None


def relabelled_segments(task: ShardTask, index: ShardIndex, folder: Path) -> Iterator[Segment]:
    """The segments of a shard with the labels of ``task``, in order.

    Args:
        task: what the new shard is made from; its audio is that of ``index``.
        index: the shard whose audio is copied.
        folder: where its tar lies.
    """
    tracks = {planned.track.track_id: planned.track for planned in task.tracks}
    handle = os.open(folder / index.name, os.O_RDONLY)
    try:
        for segment in index.segments:
            yield _relabelled(segment, tracks[segment.track_id], index, handle)
    finally:
        os.close(handle)


def _relabelled(segment: IndexedSegment, track: Track, index: ShardIndex, handle: int) -> Segment:
    stems = {stem.stem_id: stem for stem in track.stems}
    texts = label_texts([stems[old.stem_id] for old in segment.stems])
    return Segment(
        key=segment.key,
        corpus=segment.corpus,
        track_id=segment.track_id,
        artist=track.artist,
        title=track.title,
        start_s=segment.start_s,
        samples=segment.samples,
        texts=texts,
        stems=tuple(
            SegmentStem(
                stem=stems[old.stem_id],
                content_hash=old.content_hash,
                member=member_name(place, index.payload),
                data=_member(handle, old),
                gain=old.gain,
                label_rows=rows_of(stems[old.stem_id], texts),
                intervals=old.intervals,
            )
            for place, old in enumerate(segment.stems)
        ),
        track_stems=len(stems),
    )


def _member(handle: int, stem: IndexedStem) -> bytes:
    return os.pread(handle, stem.size, stem.offset)
