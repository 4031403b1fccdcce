"""A bounded folder of whole tars from elsewhere, shared by all processes of a machine.

Tars are named by their SHA-256, so equal ones of several corpora or URLs are one file. A tar is
fetched by one process while others that want it wait; it is written aside, checked and renamed. The
least recently used tars make room for a new one. What another process has open may be removed: its
file descriptor stays good, and ``ShardMembers`` closes such files when it opens the next.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ml.artifacts import ArtifactError, put
from ml.locks import lock

WAIT_S = 0.1
"""How often a process looks whether downloads of others have ended, when they fill the cache."""


class CacheRoomError(ArtifactError):
    """A tar does not fit the cache, or the cache not its disk."""


class WrongContentError(ArtifactError):
    """What was fetched is not what the index describes."""


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """Where tars from elsewhere are kept, and how many."""

    folder: Path
    """Made when first needed."""
    limit_gb: float
    """Bound of all tars together, those being fetched included; 1 GB is 1e9 bytes."""

    def open(self, sha256: str, size: int, fetch: Callable[[], Iterable[bytes]]) -> int:
        """Open the tar with a checksum, fetched when it is not here: a file descriptor.

        Args:
            sha256: 64 hex digits.
            size: in bytes.
            fetch: gives the tar's bytes in blocks.

        Raises:
            CacheRoomError: too little room; says how much there is and what to change.
            WrongContentError: the bytes have another size or checksum.
        """
        path = self.folder / f"{sha256}.tar"
        if (handle := _open_whole(path, size)) is not None:
            return handle
        with lock(self.folder / "locks" / sha256[:2], waits=True):
            if (handle := _open_whole(path, size)) is not None:
                return handle  # another process fetched it meanwhile
            return self._fetch(path, sha256, size, fetch)

    def _fetch(
        self, path: Path, sha256: str, size: int, fetch: Callable[[], Iterable[bytes]]
    ) -> int:
        aside = self.folder / f".{sha256}.{os.getpid()}.tmp"
        handle = self._reserve(aside, size)
        try:
            digest, written = hashlib.sha256(), 0
            for block in fetch():
                digest.update(block)
                written += os.pwrite(handle, block, written)
            if written != size or digest.hexdigest() != sha256:
                raise WrongContentError(
                    f"{written} bytes with SHA-256 {digest.hexdigest()}, expected {size} with "
                    f"{sha256}"
                )
            put(aside, path)
        except BaseException:
            os.close(handle)
            aside.unlink(missing_ok=True)
            raise
        fcntl.flock(handle, fcntl.LOCK_UN)
        return handle  # not opened anew: by now the file may have made room for another

    def _reserve(self, aside: Path, size: int) -> int:
        """Make a file of this size, locked while it is filled: who finds it free sweeps it."""
        while True:
            with lock(self.folder / "locks" / "room", waits=True):
                if self._has_made_room(size):
                    handle = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
                    fcntl.flock(handle, fcntl.LOCK_EX)
                    try:
                        os.posix_fallocate(handle, 0, size)
                    except OSError as error:
                        os.close(handle)
                        aside.unlink()
                        raise self._room_error(size, error) from None
                    return handle
            time.sleep(WAIT_S)  # downloads of others fill the cache; they end or die

    def _has_made_room(self, size: int) -> bool:
        """Remove the least recently used tars until one more fits."""
        under_way = sum(_sizes_under_way(self.folder))
        tars = []
        for path in self.folder.glob("[!.]*.tar"):
            with contextlib.suppress(FileNotFoundError):  # fetched damaged, removed by its reader
                tars.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        used = under_way + sum(n_bytes for _, n_bytes, _ in tars)
        limit = min(int(self.limit_gb * 1e9), used + shutil.disk_usage(self.folder).free)
        if limit < size:
            raise self._room_error(size)
        for _, n_bytes, path in sorted(tars):
            if used + size <= limit:
                break
            path.unlink(missing_ok=True)
            used -= n_bytes
        return used + size <= limit

    def _room_error(self, size: int, error: OSError | None = None) -> CacheRoomError:
        if error is not None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise error
        free = shutil.disk_usage(self.folder).free
        return CacheRoomError(
            f"a shard of {size / 1e9:.3f} GB does not fit the cache {self.folder}: its bound is "
            f"{self.limit_gb:g} GB, its disk has {free / 1e9:.3f} GB free; raise shards.cache_gb "
            "or free disk space"
        )


def _open_whole(path: Path, size: int) -> int | None:
    """Open a tar if it is here in its size, and mark it as used now."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    if os.fstat(handle).st_size == size:
        os.utime(handle)
        return handle
    os.close(handle)
    path.unlink(missing_ok=True)
    return None


def _sizes_under_way(folder: Path) -> Iterator[int]:
    """Yield the sizes of the files being fetched; remove those whose process died."""
    for path in folder.glob(".*.tmp"):
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield size
                else:
                    path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue  # finished meanwhile: now a tar
