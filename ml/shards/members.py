"""Members of shards by byte range: what is read when a chunk of a stem is asked for."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ml.artifacts import ArtifactError
from ml.shards.index import WAV_HEADER_BYTES, IndexedSegment, IndexedStem, ShardIndex

OPEN_SHARDS = 128
"""How many tars one process keeps open."""


class ShardMembers:
    """Byte ranges of a list of shards; the least recently used beyond ``OPEN_SHARDS`` are closed.

    Shards are given by their place in the list. Errors name shard, sample and what to do.
    """

    def __init__(self, shards: Sequence[tuple[Path, ShardIndex]]) -> None:
        self._shards = shards
        self._open: OrderedDict[int, int] = OrderedDict()

    def read_chunk(
        self, shard: int, segment: IndexedSegment, stem: IndexedStem, start: int, chunk: np.ndarray
    ) -> None:
        """Fill ``chunk`` (samples,) int16 from sample ``start``; silence after the segment's end.

        Raises:
            ArtifactError: the shard is missing or damaged.
        """
        inside = chunk[: max(0, segment.samples - start)]
        chunk[len(inside) :] = 0
        if self._shards[shard][1].payload == "pcm16":
            offset = stem.offset + WAV_HEADER_BYTES + 2 * start
            found = os.preadv(self._handle(shard, segment.key), [inside.data], offset)
            self._check_size(shard, segment.key, offset, found, inside.nbytes)
            return
        import soundfile  # a box that trains from PCM16 does without

        data = self.read(shard, segment.key, stem.offset, stem.size)
        try:
            with soundfile.SoundFile(io.BytesIO(data)) as file:
                file.seek(start)
                found = len(file.read(out=inside))
        except soundfile.LibsndfileError as error:
            raise self._damaged(shard, segment.key, f"stem {stem.stem_id}: {error}") from None
        if found != len(inside):
            problem = f"stem {stem.stem_id}: {found} of {len(inside)} samples"
            raise self._damaged(shard, segment.key, problem)

    def read(self, shard: int, key: str, offset: int, size: int) -> bytes:
        """``size`` bytes of a shard from ``offset``; ``key`` is the sample, for the error.

        Raises:
            ArtifactError: the tar is missing or not of the size that its index says.
        """
        data = os.pread(self._handle(shard, key), size, offset)
        self._check_size(shard, key, offset, len(data), size)
        return data

    def _handle(self, shard: int, key: str) -> int:
        if shard not in self._open:
            self._open[shard] = self._open_shard(shard, key)
            if len(self._open) > OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(shard)
        return self._open[shard]

    def _check_size(self, shard: int, key: str, offset: int, found: int, expected: int) -> None:
        if found != expected:
            raise self._damaged(shard, key, f"{found} of {expected} bytes at {offset}")

    def _open_shard(self, shard: int, key: str) -> int:
        path, index = self._shards[shard]
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise self._damaged(shard, key, "the file does not exist") from None
        found = os.fstat(handle).st_size
        if found != index.bytes:
            os.close(handle)
            raise self._damaged(shard, key, f"{found} bytes, expected {index.bytes}")
        return handle

    def _damaged(self, shard: int, key: str, found: str) -> ArtifactError:
        path = self._shards[shard][0]
        name = path.parent.name
        return ArtifactError(
            f"shard {path} is damaged at sample {key}: {found}; check it with: stems shards "
            f"inspect {name}; make it again with: stems shards build {name} --fresh"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without open files: they belong to one process."""
        return {"_shards": self._shards, "_open": OrderedDict()}

    def __del__(self) -> None:
        for handle in self._open.values():
            os.close(handle)
