"""Has a corpus changed? A fingerprint of its files by name, size and time; nothing is opened.

For who asks often (a sensor). The corpus itself is compared by content when it is scanned. A walk
over many files may be stopped when its time is up, and goes on from there the next time: the
fingerprint is a sum over files, so that only the place and the sum so far need be remembered.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ml.corpora.corpus import open_corpus

_MODULUS = 1 << 128
_LOOK_EVERY = 500
"""Files between two looks at the clock."""
_MAX_DEPTH = 16
"""Folders below the root; a link that leads back up ends here."""


@dataclass(frozen=True, kw_only=True)
class FileState:
    """A walk over the files of a corpus, to its end or so far."""

    total: int = 0
    """Sum over files of a hash of path, size and time, modulo 2^128."""
    files: int = 0
    """How many."""
    after: str | None = None
    """The last file, where the walk was stopped; None: it came to its end."""

    @property
    def fingerprint(self) -> str:
        """Equal for two walks over the same files; 32 hex digits."""
        return f"{(self.total + self.files) % _MODULUS:032x}"

    def to_json(self) -> dict[str, Any]:
        """For a cursor: plain, a few dozen bytes; the sum as text, it is longer than a number."""
        return asdict(self) | {"total": str(self.total)}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> FileState:
        """What ``to_json`` gave."""
        return cls(total=int(found["total"]), files=found["files"], after=found["after"])


def read_file_state(
    kind: str,
    root: Path,
    options: dict[str, Any] | None = None,
    *,
    begun: FileState | None = None,
    until_s: float | None = None,
) -> FileState:
    """The state of a corpus's files.

    A folder is walked, whatever its kind reads of it. Where the root is a file (kind
    ``manifest``), it is that file and the files it names.

    Args:
        kind: of the corpus.
        root: its folder, or the file that lists it.
        options: of its reader.
        begun: a walk that was stopped, to go on with.
        until_s: when to stop, on the clock of ``time.monotonic``; some files are looked at in any
            case, so that the next walk goes on from another place.

    Raises:
        CorpusError: there is no such root, or the list is damaged.
        OSError: a folder cannot be listed.
    """
    state = begun or FileState()
    if root.is_dir():
        found = _walk(root, "", _parts(state.after), 0)
    else:
        found = _listed(kind, root, options or {}, state.after)
    while block := list(islice(found, _LOOK_EVERY)):
        total = state.total + sum(_hash(*entry) for entry in block)
        last = block[-1][0]
        state = FileState(total=total % _MODULUS, files=state.files + len(block), after=last)
        if until_s is not None and time.monotonic() >= until_s:
            return state
    return replace(state, after=None)


def _walk(
    folder: Path | str, prefix: str, after: tuple[str, ...], depth: int
) -> Iterator[tuple[str, int, int]]:
    """Path below the root, size and time of files, in order of their paths' parts.

    Those up to ``after`` are left out; folders that hold only such are not listed.
    """
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if after and entry.name < after[0]:
            continue
        path = f"{prefix}{entry.name}"
        rest = after[1:] if after and entry.name == after[0] else ()
        if not entry.is_dir():
            if not after or entry.name != after[0]:
                state = _stat(entry)
                yield path, *state
        elif depth < _MAX_DEPTH:
            yield from _walk(entry.path, f"{path}/", rest, depth + 1)


def _stat(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        state = entry.stat()
    except FileNotFoundError:  # a link to nothing, or gone since the folder was listed
        return -1, 0
    return state.st_size, state.st_mtime_ns


def _listed(
    kind: str, root: Path, options: dict[str, Any], after: str | None
) -> Iterator[tuple[str, int, int]]:
    tracks = open_corpus(kind, root, **options).tracks()
    paths = {str(path) for track in tracks for stem in track.stems for path in stem.files}
    for name in sorted({str(root), *paths}):
        if after is None or name > after:
            path = Path(name)
            state = path.stat() if path.is_file() else None
            yield name, state.st_size if state else -1, state.st_mtime_ns if state else 0


def _parts(after: str | None) -> tuple[str, ...]:
    return tuple(after.split("/")) if after else ()


def _hash(path: str, size: int, time_ns: int) -> int:
    entry = f"{path}\0{size}\0{time_ns}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(entry, digest_size=16).digest(), "big")
