"""Shards to a URL: each tar, then its index, and the manifest when all of them are there.

A reader at the URL finds a shard when its index is there, which comes after its tar, and a set of
shards when the manifest lists it. Tars are named by their content: what is put twice is there once,
and an interrupted push goes on where it stopped. Nothing at a URL is deleted but by
``stems gc --remote``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ml.artifacts import MANIFEST_NAME, ArtifactError, file_fingerprint
from ml.object_store import file_sizes, get_file, put_file, read_bytes, write_bytes
from ml.progress import progress
from ml.shards.index import index_path, read_index, read_shards_manifest


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

    Args:
        folder: the shards of a corpus.
        uri: where corpora go: ``s3://bucket/prefix``; the corpus becomes a folder below it.

    Raises:
        ArtifactError: no shards, or one of them is damaged here, or all lie at a URL already.
        ml.object_store.RemoteError: the URL cannot be written.
    """
    manifest = read_shards_manifest(folder)
    if place := manifest.get("url"):
        raise ArtifactError(
            f"the shards of {folder.name} lie at {place}, where their build has put them, and "
            f"{folder} holds none to push; copy them with a tool of the store"
        )
    content = (folder / MANIFEST_NAME).read_bytes()  # before the tars: they may be built anew
    url = f"{uri.rstrip('/')}/{folder.name}"
    there = file_sizes(url)
    entries = manifest["shards"]
    sent = sent_bytes = 0
    for entry in progress(entries, total=len(entries), label=f"pushing {folder.name}"):
        path = folder / entry["name"]
        if there.get(path.name) != entry["bytes"]:
            if not path.is_file() or file_fingerprint(path) != entry["sha256"]:
                raise ArtifactError(
                    f"{path} is missing or not what the manifest describes; make it again with: "
                    f"stems shards build {folder.name}"
                )
            put_file(path, f"{url}/{path.name}")
            sent, sent_bytes = sent + 1, sent_bytes + entry["bytes"]
        _put_index(index_path(folder, path.name), url, there)
    _put_changed(f"{url}/{MANIFEST_NAME}", content, there)
    return Pushed(url=url, shards=len(entries), sent=sent, sent_bytes=sent_bytes)


def put_shard(tar: Path, url: str) -> None:
    """Put a tar that has just been made into the folder at a URL, then the index beside it."""
    index = index_path(tar.parent, tar.name)
    there = file_sizes(url, (tar.name, index.name))
    if there.get(tar.name) != tar.stat().st_size:
        put_file(tar, f"{url}/{tar.name}")
    _put_index(index, url, there)


def get_shard(url: str, name: str, folder: Path) -> None:
    """Bring a tar and its index here; where one of them is gone, it is missing here too."""
    for path in (folder / name, index_path(folder, name)):
        with contextlib.suppress(FileNotFoundError):
            get_file(f"{url}/{path.name}", path)


def put_manifest(folder: Path, url: str) -> None:
    """Put the manifest of shards that are all at a URL there, for their readers."""
    content = (folder / MANIFEST_NAME).read_bytes()
    _put_changed(f"{url}/{MANIFEST_NAME}", content, file_sizes(url, (MANIFEST_NAME,)))


def _put_index(path: Path, url: str, there: Mapping[str, int]) -> None:
    read_index(path)  # a damaged one would stay unseen until it is read there
    _put_changed(f"{url}/{path.name}", path.read_bytes(), there)


def _put_changed(url: str, content: bytes, there: Mapping[str, int]) -> None:
    """Write a file that is not there with this content; names do not tell contents here."""
    if there.get(url.rpartition("/")[2]) != len(content) or read_bytes(url) != content:
        write_bytes(url, content)
