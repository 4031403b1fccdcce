"""Has a corpus changed? A fingerprint of its files by name, size and time; nothing is opened.

For who asks often (the observed asset ``corpus_files``). The corpus itself is compared by content
when it is scanned.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml.corpora.corpus import open_corpus

_MAX_DEPTH = 16
"""Folders below the root; a link that leads back up ends here."""


def files_fingerprint(kind: str, root: Path, options: Mapping[str, Any] | None = None) -> str:
    """Digest path, size and time of every file of a corpus.

    A folder is walked, whatever its kind reads of it. Where the root is a file (kind
    ``manifest``), it is that file and the files it names.

    Args:
        kind: of the corpus.
        root: its folder, or the file that lists it.
        options: of its reader.

    Returns:
        32 hex digits, equal for two walks over the same files.

    Raises:
        CorpusError: there is no such root, or the list is damaged.
        OSError: a folder cannot be listed.
    """
    digest = hashlib.blake2b(digest_size=16)
    files = _walk(root) if root.is_dir() else _listed(kind, root, options or {})
    for path, size, time_ns in files:
        digest.update(f"{path}\0{size}\0{time_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _walk(folder: Path | str, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, int, int]]:
    """Yield path below the root, size and time of each file, in the order of paths."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{prefix}{entry.name}"
        if not entry.is_dir():
            yield path, *_size_and_time(entry)
        elif depth < _MAX_DEPTH:
            yield from _walk(entry.path, f"{path}/", depth + 1)


def _listed(kind: str, root: Path, options: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    tracks = open_corpus(kind, root, **options).tracks()
    paths = {str(path) for track in tracks for stem in track.stems for path in stem.files}
    for name in sorted({str(root), *paths}):
        yield name, *_size_and_time(Path(name))


def _size_and_time(file: os.DirEntry[str] | Path) -> tuple[int, int]:
    try:
        state = file.stat()
    except FileNotFoundError:  # a link to nothing, or gone since the folder was listed
        return -1, 0
    return state.st_size, state.st_mtime_ns
