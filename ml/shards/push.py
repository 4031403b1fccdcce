"""Shards to a URL: copied from here, or put there by whoever makes them; the manifest comes last.

A reader at the URL finds a shard when its index is there, which comes after its tar, and a set of
shards when the manifest lists it. Tars are named by their content: what is put twice is there once.
Nothing at a URL is deleted but by ``stems gc --remote``.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST_NAME, ArtifactError, file_fingerprint
from ml.object_store import file_sizes, open_url, persistently, read_bytes
from ml.processes import scratch_folder
from ml.progress import progress
from ml.shards.index import ShardIndex, index_path, read_index, read_shards_manifest
from ml.shards.write import ShardJob, write_shard


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
        ArtifactError: no shards, or one of them is damaged here, or all lie at a URL already.
        ml.shards.folders.RemoteError: the URL cannot be written.
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
    sent = sent_bytes = 0
    entries = manifest["shards"]
    for entry in progress(entries, total=len(entries), label=f"pushing {folder.name}"):
        path = folder / entry["name"]
        if there.get(path.name) != entry["bytes"]:
            _check(path, entry)
            _put(path, f"{url}/{path.name}")
            sent, sent_bytes = sent + 1, sent_bytes + entry["bytes"]
        _push_index(index_path(folder, path.name), url, there)
    _push_manifest(content, url, there)
    return Pushed(url=url, shards=len(entries), sent=sent, sent_bytes=sent_bytes)


def make_shard(job: ShardJob) -> ShardIndex:
    """Make one shard where its job wants it: in a folder, or at a URL.

    For a URL it is written in a temporary folder (``TMPDIR``, or the local directory of a Dask
    worker), which wants room for two shards. Returns the index without its segments.

    Raises:
        ml.audio.files.AudioError: an audio file is missing or cannot be decoded.
        ml.shards.folders.RemoteError: the URL cannot be read or written.
    """
    if job.url is None:
        return write_shard(job)
    with tempfile.TemporaryDirectory(prefix="shards-", dir=scratch_folder()) as here:
        folder = Path(here) / job.folder.name
        folder.mkdir()
        if job.copy_from:
            _get_shard(job.url, job.copy_from, folder)
        index = write_shard(replace(job, folder=folder))
        there = file_sizes(job.url, (index.name, index_path(folder, index.name).name))
        if there.get(index.name) != index.bytes:
            _put(folder / index.name, f"{job.url}/{index.name}")
        _push_index(index_path(folder, index.name), job.url, there)
    return index


def push_manifest(folder: Path, url: str) -> None:
    """Put the manifest of shards that are all at a URL there, for their readers."""
    _push_manifest((folder / MANIFEST_NAME).read_bytes(), url, file_sizes(url, (MANIFEST_NAME,)))


def is_pushed(folder: Path, url: str) -> bool:
    """Whether the shards of the manifest are at a URL, each with its index, and so is it.

    Raises:
        ml.shards.folders.RemoteError: the URL cannot be read.
    """
    there = file_sizes(url)
    return (
        all(
            there.get(shard["name"]) == shard["bytes"]
            and index_path(folder, shard["name"]).name in there
            for shard in read_shards_manifest(folder)["shards"]
        )
        and MANIFEST_NAME in there
        and read_bytes(f"{url}/{MANIFEST_NAME}") == (folder / MANIFEST_NAME).read_bytes()
    )


def _get_shard(url: str, name: str, folder: Path) -> None:
    """Bring a tar and its index here; where one of them is gone, it is missing here too."""
    for file in (name, index_path(folder, name).name):

        def get(file: str = file) -> None:
            system, path = open_url(f"{url}/{file}")
            system.get_file(path, str(folder / file))

        with contextlib.suppress(FileNotFoundError):
            persistently(f"{url}/{file}", get)


def _check(path: Path, entry: dict[str, Any]) -> None:
    if not path.is_file() or file_fingerprint(path) != entry["sha256"]:
        raise ArtifactError(
            f"{path} is missing or not what the manifest describes; make it again with: "
            f"stems shards build {path.parent.name}"
        )


def _push_index(path: Path, url: str, there: Mapping[str, int]) -> None:
    """An index may change while its tar stays, so its content is compared."""
    read_index(path)
    _update(f"{url}/{path.name}", path.read_bytes(), there.get(path.name))


def _push_manifest(content: bytes, url: str, there: Mapping[str, int]) -> None:
    _update(f"{url}/{MANIFEST_NAME}", content, there.get(MANIFEST_NAME))


def _update(url: str, content: bytes, size: int | None) -> None:
    """Write what is not there (in ``size`` bytes) already."""
    if size != len(content) or read_bytes(url) != content:
        _write(url, content)


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


def _written(url: str, work: Callable[[], None]) -> None:
    try:
        persistently(url, work)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{url} cannot be written: {error}; expected a bucket that exists; make it first"
        ) from None
