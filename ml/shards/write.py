"""One task to one tar: samples in order, nothing of this machine or hour in the bytes.

Audio is decoded and encoded, or *copied* from a shard that differs in labels alone: then the files
of the corpus need not exist, and the result is what encoding again would give.
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

from ml.artifacts import ArtifactError, file_fingerprint, put
from ml.shards.index import (
    IndexedSegment,
    ShardCounts,
    ShardIndex,
    index_path,
    read_index,
    write_index,
)
from ml.shards.plan import ShardConfig, ShardTask
from ml.shards.segments import (
    EncodedSegment,
    describe_segment,
    four_class_index,
    label_rows,
    label_texts,
    member_name,
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
    """Where it goes; its name is that of the corpus."""
    copy_from: str | None = None
    """Name of a shard of the same place whose audio is the same; None: decode."""


def write_shard(job: ShardJob) -> ShardIndex:
    """Write one shard and its index into the job's folder; return the index without its segments.

    Audio is copied from another shard where the job names one that is intact.

    Raises:
        ml.audio.files.AudioError: an audio file is missing or cannot be decoded.
    """
    task, config, folder = job.task, job.config, job.folder
    source = _read_intact(folder, job.copy_from) if job.copy_from else None
    handle, staged_name = tempfile.mkstemp(prefix=f".{task.split}.", suffix=".tmp", dir=folder)
    staged = Path(staged_name)
    try:
        with (
            os.fdopen(handle, "wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar,
        ):
            segments, counts = _write_tracks(tar, job, source)
        digest = file_fingerprint(staged)
        path = folder / f"{task.split}-{task.number:06d}-{digest[:8]}.tar"
        staged.chmod(0o644)
        put(staged, path)
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
        copied = _relabelled_segments(job.task, source, job.folder)
        return [_write_segment(tar, encoded, job) for encoded in copied], source.counts
    written: list[IndexedSegment] = []
    counts = ShardCounts()
    for planned in job.task.tracks:
        before = len(written)
        for encoded in track_segments(planned, job.config):
            counts += _count(encoded.segment, len(planned.track.stems), job.config.rate_hz)
            if encoded.audio:
                written.append(_write_segment(tar, encoded, job))
        counts += ShardCounts(tracks=int(len(written) > before))
    return written, counts


def _write_segment(tar: tarfile.TarFile, encoded: EncodedSegment, job: ShardJob) -> IndexedSegment:
    """Append a sample to the tar; return its segment with the offsets of the members."""
    segment, config = encoded.segment, job.config
    description = describe_segment(segment, config.rate_hz, config.payload)
    _add_member(tar, f"{segment.key}.segment.json", description)
    stems = []
    for place, (stem, data) in enumerate(zip(segment.stems, encoded.audio, strict=True)):
        name = f"{segment.key}.{member_name(place, config.payload)}"
        stems.append(replace(stem, offset=_add_member(tar, name, data)))
    # labels.npy: (text, condition_dim) float16
    rows = np.stack([job.vectors[text] for text in segment.texts]).astype("<f2")
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    end = _add_member(tar, f"{segment.key}.labels.npy", buffer.getvalue()) + buffer.tell()
    return replace(segment, stems=tuple(stems), labels_offset=end - rows.nbytes)


def _add_member(tar: tarfile.TarFile, member: str, data: bytes) -> int:
    """Append a file to a tar, with nothing of this machine or hour in it.

    Returns:
        Where its data begins.
    """
    info = tarfile.TarInfo(member)
    info.size, info.mode, info.mtime = len(data), 0o444, 0
    tar.addfile(info, io.BytesIO(data))
    return tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _count(segment: IndexedSegment, track_stems: int, rate_hz: int) -> ShardCounts:
    duration_s = segment.samples / rate_hz
    stored = len(segment.stems)
    return ShardCounts(
        segments=int(stored > 0),
        segment_s=duration_s if stored else 0.0,
        stem_s=duration_s * stored,
        dropped_segments=int(stored == 0),
        dropped_segment_s=0.0 if stored else duration_s,
        dropped_stem_s=duration_s * (track_stems - stored),
    )


def _read_intact(folder: Path, name: str) -> ShardIndex | None:
    """Read the index of a shard whose bytes have its checksum; None when damaged or gone."""
    try:
        index = read_index(index_path(folder, name))
        is_intact = file_fingerprint(folder / name) == index.sha256
    except (ArtifactError, OSError):
        return None
    return index if is_intact else None


def _relabelled_segments(
    task: ShardTask, index: ShardIndex, folder: Path
) -> Iterator[EncodedSegment]:
    """Read the segments of a shard, in order, with the labels of a task that has their audio."""
    tracks = {planned.track.track_id: planned.track for planned in task.tracks}
    handle = os.open(folder / index.name, os.O_RDONLY)
    try:
        for segment in index.segments:
            yield EncodedSegment(
                segment=_relabelled(segment, tracks[segment.track_id]),
                audio=tuple(os.pread(handle, stem.size, stem.offset) for stem in segment.stems),
            )
    finally:
        os.close(handle)


def _relabelled(segment: IndexedSegment, track: Track) -> IndexedSegment:
    listed = {stem.stem_id: stem for stem in track.stems}
    texts = label_texts([listed[stem.stem_id] for stem in segment.stems])
    stems = tuple(
        replace(
            stem,
            labels=listed[stem.stem_id].labels,
            label_rows=label_rows(listed[stem.stem_id], texts),
            four_class=four_class_index(listed[stem.stem_id]),
        )
        for stem in segment.stems
    )
    return replace(segment, artist=track.artist, title=track.title, texts=texts, stems=stems)
