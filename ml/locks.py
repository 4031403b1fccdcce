"""Locks that the kernel frees when their process dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


class LockedError(RuntimeError):
    """Another process is building this artifact."""


@contextlib.contextmanager
def lock(path: Path, *, waits: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on a file while the block runs.

    Args:
        path: the file to lock; made where it is not there.
        waits: for who holds it, where that takes moments.

    Raises:
        LockedError: another process holds it; names its process id and host.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        _take(file, path, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name in it
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def require_free(path: Path) -> None:
    """Look whether a process holds a lock, and write nothing.

    Raises:
        LockedError: one does; names its process id and host.
    """
    with contextlib.suppress(FileNotFoundError), path.open() as file:
        _take(file, path, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _take(file: TextIO, path: Path, kind: int) -> None:
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise LockedError(
            f"{path.parent} is being written by {holder}; wait for it or stop it"
        ) from None


def lock_above(path: Path, home: Path) -> Path | None:
    """Find the nearest ``.lock`` that a writer of ``path`` holds; None where home has none."""
    folders = [folder for folder in path.parents if folder.is_relative_to(home)]
    return next((folder / ".lock" for folder in folders if (folder / ".lock").is_file()), None)
