"""A shard with other labels: its audio members as they are, ``segment.json`` and vectors anew.

Nothing is decoded, and the files of the corpus need not exist. The result is what encoding again
would give.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ml.artifacts import ArtifactError, file_fingerprint
from ml.corpora.corpus import Track
from ml.shards.index import IndexedSegment, IndexedStem, ShardIndex, index_path, read_index
from ml.shards.plan import ShardTask
from ml.shards.segments import Segment, SegmentStem, label_texts, member_name, rows_of


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
