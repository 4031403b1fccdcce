"""One task to one tar: samples in order, nothing of this machine or hour in the bytes."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ml.artifacts import file_fingerprint
from ml.shards.index import IndexedSegment, IndexedStem, ShardCounts, ShardIndex, write_index
from ml.shards.plan import ShardConfig, ShardTask
from ml.shards.segments import Segment, label_rows, track_segments


def write_shard(
    task: ShardTask,
    config: ShardConfig,
    vectors: Mapping[str, np.ndarray],
    folder: Path,
    fingerprint: str,
) -> ShardIndex:
    """Write one shard and its index.

    Args:
        task: the tracks.
        config: how to store.
        vectors: the condition of every label text of the tracks.
        folder: where the shard goes.
        fingerprint: of the task, for the index.
    """
    handle, staged_name = tempfile.mkstemp(prefix=f".{task.split}.", suffix=".tmp", dir=folder)
    staged = Path(staged_name)
    try:
        with os.fdopen(handle, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                segments, counts = _write_tracks(tar, task, config, vectors)
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
        task=fingerprint,
        sha256=digest,
        bytes=path.stat().st_size,
        rate_hz=config.rate_hz,
        payload=config.payload,
        assigned=tuple(planned.track.track_id for planned in task.tracks),
        counts=counts,
        segments=tuple(segments),
    )
    write_index(folder, index)
    return index


def _write_tracks(
    tar: tarfile.TarFile,
    task: ShardTask,
    config: ShardConfig,
    vectors: Mapping[str, np.ndarray],
) -> tuple[list[IndexedSegment], ShardCounts]:
    indexed: list[IndexedSegment] = []
    counts = ShardCounts()
    for planned in task.tracks:
        segments = 0
        for segment in track_segments(planned, config):
            counts += _count(segment, config.rate_hz)
            if segment.stems:
                segments += 1
                indexed.append(_write_segment(tar, segment, config, vectors))
        counts += ShardCounts(tracks=int(segments > 0))
    return indexed, counts


def _write_segment(
    tar: tarfile.TarFile,
    segment: Segment,
    config: ShardConfig,
    vectors: Mapping[str, np.ndarray],
) -> IndexedSegment:
    _add_member(tar, f"{segment.key}.segment.json", segment.description(config.rate_hz))
    stems = tuple(
        IndexedStem(
            stem_id=stem.source.stem.stem_id,
            content_hash=stem.source.content_hash,
            labels=stem.source.stem.labels,
            label_rows=stem.label_rows,
            four_class=stem.four_class,
            gain=stem.source.gain,
            intervals=stem.intervals,
            offset=_add_member(tar, f"{segment.key}.{stem.member}", stem.data),
            size=len(stem.data),
        )
        for stem in segment.stems
    )
    rows = label_rows(segment.texts, vectors)
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    offset = _add_member(tar, f"{segment.key}.labels.npy", buffer.getvalue())
    return IndexedSegment(
        key=segment.key,
        corpus=segment.corpus,
        track_id=segment.track_id,
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
