"""Getting CLAP's weights and vocabulary once; everything later runs offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ml.artifacts import Artifact, file_fingerprint, find_current, finish
from ml.download import download
from ml.locks import lock
from ml.models.clap_files import HUB, PUBLISHED, PublishedFile

FORMAT_VERSION = 1


def fetch_clap(
    folder: Path, *, host: str = HUB, files: Sequence[PublishedFile] = PUBLISHED
) -> Artifact:
    """Download CLAP from the hub, or what is missing of it.

    Args:
        folder: where it goes (``DataLayout.clap``).
        host: the hub, or a server with the same paths.
        files: what to get; each is checked against its published hash.

    Returns:
        The folder; its summary holds the hash of each file.

    Raises:
        DownloadError: a file cannot be had, or is not the published one.
        LockedError: another process is fetching.
    """
    identity = {"files": {file.path: file.sha256 for file in files}}
    found = find_current(folder, identity, format_version=FORMAT_VERSION)
    if found is not None and all(_has_size(folder, file) for file in files):
        return found
    with lock(folder / ".lock"):
        for file in files:
            path = folder / file.path
            if not (_has_size(folder, file) and file_fingerprint(path) == file.sha256):
                download(file.url(host), path, sha256=file.sha256, size_bytes=file.size_bytes)
        return finish(
            folder,
            identity,
            format_version=FORMAT_VERSION,
            summary={file.path: file.sha256 for file in files},
            urls={file.path: file.url(host) for file in files},
        )


def _has_size(folder: Path, file: PublishedFile) -> bool:
    path = folder / file.path
    return path.is_file() and path.stat().st_size == file.size_bytes
