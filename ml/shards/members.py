"""Members of shards by byte range: reads the chunk of a stem that is asked for, and no more."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, BinaryIO, cast

import numpy as np

from ml.shards.folders import Shard, ShardFolder
from ml.shards.index import (
    WAV_HEADER_BYTES,
    Damage,
    DamagedShardError,
    IndexedSegment,
    IndexedStem,
    Parts,
)

OPEN_SHARDS = 128
"""How many tars one process keeps open."""

MEMBER_BLOCK = 1 << 14
"""Bytes of a FLAC that are read at a time."""


class ShardMembers:
    """Byte ranges of a list of shards; the least recently used beyond ``OPEN_SHARDS`` are closed.

    Shards are given by their place in the list. Errors name shard, sample and what to do.
    """

    bytes_read: int
    """How much this process has asked of tars."""

    def __init__(
        self, shards: Sequence[tuple[ShardFolder, Shard]], *, keeps_decoded: bool = False
    ) -> None:
        """Open nothing yet.

        Args:
            shards: what is read.
            keeps_decoded: decode a FLAC whole when it is first asked for, and keep it in memory.
        """
        self._shards, self._keeps_decoded = shards, keeps_decoded
        self._forget()

    def read_crop(
        self,
        shard: int,
        parts: Parts,
        stem_id: str,
        start: int,
        chunk: np.ndarray,
    ) -> None:
        """Fill ``chunk`` (samples,) int16 with a stem from what is stored of a track.

        Args:
            shard: of the parts.
            parts: what is stored; between them, and in a part that lacks the stem, is silence.
            stem_id: which stem.
            start: first sample of the chunk.
            chunk: what is filled.

        Raises:
            DamagedShardError: the shard is missing or damaged.
            ArtifactError: it cannot be brought here.
        """
        chunk[:] = 0
        for first, part in parts:
            begin, end = max(start, first), min(start + len(chunk), first + part.samples)
            stem = next((x for x in part.stems if x.stem_id == stem_id), None)
            if stem is not None and begin < end:
                self.read_chunk(
                    shard, part, stem, begin - first, chunk[begin - start : end - start]
                )

    def read_chunk(
        self, shard: int, segment: IndexedSegment, stem: IndexedStem, start: int, chunk: np.ndarray
    ) -> None:
        """Fill ``chunk`` (samples,) int16 from sample ``start``; silence after the segment's end.

        Of a FLAC that is not kept only the frames of the chunk are read and decoded, and a few to
        find them.

        Raises:
            DamagedShardError: the shard is missing or damaged.
            ArtifactError: it cannot be brought here.
        """
        inside = chunk[: max(0, segment.samples - start)]
        chunk[len(inside) :] = 0
        if self._shards[shard][1].payload == "pcm16":
            handle = self._handle(shard, segment.key)
            offset = stem.offset + WAV_HEADER_BYTES + 2 * start
            n_bytes = os.preadv(handle, [inside.data], offset)
            self.bytes_read += n_bytes
            self._check_size(shard, segment.key, offset, n_bytes, inside.nbytes)
        elif (whole := self._whole(shard, segment, stem)) is not None:
            inside[:] = whole[start : start + len(inside)]
        else:
            self._decode(shard, segment, stem, start, inside)

    def _whole(self, shard: int, segment: IndexedSegment, stem: IndexedStem) -> np.ndarray | None:
        """Decode a stem once and keep it; None: not kept, or damaged, which a chunk may not be."""
        if not self._keeps_decoded:
            return None
        place = (shard, stem.offset)
        if place not in self._decoded:
            samples = np.empty(segment.samples, dtype=np.int16)
            try:
                self._decode(shard, segment, stem, 0, samples)
            except DamagedShardError:
                return None
            self._decoded[place] = samples
        return self._decoded[place]

    def _decode(
        self,
        shard: int,
        segment: IndexedSegment,
        stem: IndexedStem,
        start: int,
        samples: np.ndarray,
    ) -> None:
        """Fill ``samples`` from sample ``start`` of a FLAC."""
        import soundfile  # a box that trains from PCM16 does without

        member = _Member(self._handle(shard, segment.key), stem.offset, stem.size)
        try:
            with soundfile.SoundFile(cast(BinaryIO, member)) as file:
                file.seek(start)
                decoded = len(file.read(out=samples))
        except soundfile.LibsndfileError as error:
            problem = f"stem {stem.stem_id}: {error.error_string}"
            raise self._damaged(shard, segment.key, problem) from None
        finally:
            self.bytes_read += member.bytes_read
        if decoded != len(samples):
            problem = f"stem {stem.stem_id}: {decoded} of {len(samples)} samples"
            raise self._damaged(shard, segment.key, problem)

    def read(self, shard: int, key: str, offset: int, size: int) -> bytes:
        """Read ``size`` bytes of a shard from ``offset``; ``key`` is the sample, for the error.

        Raises:
            DamagedShardError: the tar is missing or not of the size that its index says.
            ArtifactError: it cannot be brought here.
        """
        data = os.pread(self._handle(shard, key), size, offset)
        self.bytes_read += len(data)
        self._check_size(shard, key, offset, len(data), size)
        return data

    def _handle(self, shard: int, key: str) -> int:
        if shard not in self._open:
            self._close_removed()
            self._open[shard] = self._open_shard(shard, key)
            if len(self._open) > OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(shard)
        self._used.add(shard)
        return self._open[shard]

    def _close_removed(self) -> None:
        """Mark cached tars that were in use; close those that made room for others.

        Their space on disk is free only when no process has them open.
        """
        for shard, handle in list(self._open.items()):
            if self._shards[shard][0].cache is None:
                continue
            if os.fstat(handle).st_nlink == 0:
                os.close(self._open.pop(shard))
            elif shard in self._used:
                os.utime(handle)
        self._used.clear()

    def _check_size(self, shard: int, key: str, offset: int, n_bytes: int, expected: int) -> None:
        if n_bytes != expected:
            raise self._damaged(shard, key, f"{n_bytes} of {expected} bytes at {offset}")

    def _open_shard(self, shard: int, key: str) -> int:
        folder, described = self._shards[shard]
        if shard not in self._bad:  # else it would be fetched again for each of its samples
            try:
                handle = folder.open(described)
            except FileNotFoundError:
                problem = "the file does not exist"
            except DamagedShardError as error:
                problem = error.damage.problem
            else:
                size = os.fstat(handle).st_size
                if size == described.bytes:
                    return handle
                os.close(handle)
                problem = f"{size} bytes, expected {described.bytes}"
            self._bad[shard] = problem
        raise self._damaged(shard, key, self._bad[shard])

    def _damaged(self, shard: int, key: str, problem: str) -> DamagedShardError:
        folder, described = self._shards[shard]
        damage = Damage(shard=folder.where(described.name), sample=key, problem=problem)
        return DamagedShardError(damage, folder.name)

    def _forget(self) -> None:
        self.bytes_read = 0
        self._open: OrderedDict[int, int] = OrderedDict()
        self._used: set[int] = set()
        self._bad: dict[int, str] = {}
        self._decoded: dict[tuple[int, int], np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out open files and what was decoded: they belong to one process."""
        return {"_shards": self._shards, "_keeps_decoded": self._keeps_decoded}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with nothing open."""
        self.__dict__.update(state)
        self._forget()

    def __del__(self) -> None:
        for handle in self._open.values():
            os.close(handle)


class _Member:
    """A member of a tar as a file of its own, of which only what is asked for is read, and once.

    The decoder bisects to find a place in a FLAC, more so the more its bit rate varies.
    """

    name = "member"

    def __init__(self, handle: int, offset: int, size: int) -> None:
        self._handle, self._offset, self._size = handle, offset, size
        self._place = self.bytes_read = 0
        self._blocks: dict[int, bytes] = {}

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = (0, self._place, self._size)[whence]
        self._place = max(0, begin + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted, done = memoryview(buffer), 0
        while done < len(wanted):
            number, begin = divmod(self._place, MEMBER_BLOCK)
            piece = self._block(number)[begin : begin + len(wanted) - done]
            if not piece:
                break
            wanted[done : done + len(piece)] = piece
            done += len(piece)
            self._place += len(piece)
        return done

    def _block(self, number: int) -> memoryview:
        if number not in self._blocks:
            begin = number * MEMBER_BLOCK
            size = max(0, min(MEMBER_BLOCK, self._size - begin))
            self._blocks[number] = os.pread(self._handle, size, self._offset + begin)
            self.bytes_read += len(self._blocks[number])
        return memoryview(self._blocks[number])
