"""The shards of a corpus to a URL, for training elsewhere: only what is missing, manifest last."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST_NAME, ArtifactError, file_fingerprint
from ml.progress import progress
from ml.shards.index import index_path, read_index, read_shards_manifest
from ml.shards.remote import open_url, persistently, read_bytes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What ``push_shards`` did."""

    url: str
    """The folder of the corpus."""
    shards: int
    """Shards of the manifest."""
    sent: int
    """Tars that were not there yet."""
    sent_bytes: int


def push_shards(folder: Path, uri: str) -> Pushed:
    """Copy the shards that a manifest lists; readers see the new set when its manifest comes, last.

    Tars are named by their content, so one that is there in its size is left; nothing is deleted.
    An interrupted push goes on where it stopped.

    Args:
        folder: the shards of a corpus.
        uri: where corpora go: ``s3://bucket/prefix``; the corpus becomes a folder below it.

    Raises:
        ArtifactError: no shards, or one of them is damaged here.
        ml.shards.remote.RemoteError: the URL cannot be written.
    """
    manifest = read_shards_manifest(folder)
    content = (folder / MANIFEST_NAME).read_bytes()  # before the tars: they may be built anew
    url = f"{uri.rstrip('/')}/{folder.name}"
    there = persistently(url, lambda: _sizes(url))
    sent = sent_bytes = 0
    entries = manifest["shards"]
    for entry in progress(entries, total=len(entries), label=f"pushing {folder.name}"):
        path = folder / entry["name"]
        if there.get(path.name) != entry["bytes"]:
            _check(path, entry)
            _put(path, f"{url}/{path.name}")
            sent, sent_bytes = sent + 1, sent_bytes + entry["bytes"]
        _push_index(index_path(folder, path.name), url, there)
    if MANIFEST_NAME not in there or read_bytes(f"{url}/{MANIFEST_NAME}") != content:
        _write(f"{url}/{MANIFEST_NAME}", content)
    return Pushed(url=url, shards=len(entries), sent=sent, sent_bytes=sent_bytes)


def _sizes(url: str) -> dict[str, int]:
    """Name and size of each file of a folder; empty where there is none."""
    system, root = open_url(url)
    system.invalidate_cache()
    if "file" in system.protocol:
        system.makedirs(root, exist_ok=True)
    try:
        found = system.ls(root, detail=True)
    except FileNotFoundError:
        return {}
    return {entry["name"].rpartition("/")[2]: entry["size"] for entry in found}


def _check(path: Path, entry: dict[str, Any]) -> None:
    if not path.is_file() or file_fingerprint(path) != entry["sha256"]:
        raise ArtifactError(
            f"{path} is missing or not what the manifest describes; make it again with: "
            f"stems shards build {path.parent.name}"
        )


def _push_index(path: Path, url: str, there: dict[str, int]) -> None:
    """An index may change while its tar stays, so its content is compared."""
    read_index(path)
    content = path.read_bytes()
    target = f"{url}/{path.name}"
    if there.get(path.name) != len(content) or read_bytes(target) != content:
        _write(target, content)


def _put(path: Path, url: str) -> None:
    def put() -> None:
        system, target = open_url(url)
        system.put_file(str(path), target)

    _written(url, put)


def _write(url: str, content: bytes) -> None:
    def write() -> None:
        system, target = open_url(url)
        system.pipe_file(target, content)

    _written(url, write)


def _written(url: str, work: Any) -> None:
    try:
        persistently(url, work)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{url} cannot be written: {error}; expected a bucket that exists; make it first"
        ) from None
