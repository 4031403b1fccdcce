"""Where the shards of a corpus are read from: a folder on disk, or a URL behind a cache.

A folder of shards gives its manifest, its indexes and open tars; what is read from a tar is the
matter of ``members``. URLs are the matter of ``remote``.

[remote] Shards behind a URL: indexes are fetched when opened, tars whole into a bounded local
cache.

Any scheme of fsspec works: ``s3://bucket/prefix/demo`` needs ``s3fs`` beside it. Endpoint and
credentials come from the environment (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, …) and are
written down nowhere. fsspec is imported only here, when a URL is used.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, file_fingerprint
from ml.object_store import open_url, persistently, read_bytes
from ml.shards.cache import ShardCache, WrongContentError
from ml.shards.damage import Damage, DamagedShardError
from ml.shards.index import Payload, ShardIndex, index_path, read_index, read_shards_manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One tar, as its index describes it."""

    name: str
    """File name."""
    sha256: str
    bytes: int
    payload: Payload

    @classmethod
    def of(cls, index: ShardIndex) -> Shard:
        """The tar of an index."""
        return cls(name=index.name, sha256=index.sha256, bytes=index.bytes, payload=index.payload)


class ShardFolder(Protocol):
    """The shards of one corpus."""

    @property
    def name(self) -> str:
        """Name of the corpus."""
        ...

    @property
    def cache(self) -> ShardCache | None:
        """What keeps copies of the tars, and wants to know when they are used; None on disk."""
        ...

    def where(self, name: str) -> str:
        """Path or URL of a file of the folder."""
        ...

    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            ArtifactError: there is none, or it is of a newer format.
        """
        ...

    def indexes(self, names: Sequence[str]) -> Iterator[ShardIndex | DamagedShardError]:
        """The index of each shard, by the file names of the tars; or what is wrong with it."""
        ...

    def open(self, shard: Shard) -> int:
        """A file descriptor of a tar, for the caller to close.

        Raises:
            FileNotFoundError: the tar does not exist.
            ArtifactError: it cannot be brought here.
        """
        ...

    def checksum(self, shard: Shard) -> str:
        """SHA-256 of a tar as it lies there.

        Raises:
            FileNotFoundError: the tar does not exist.
        """
        ...


@dataclass(frozen=True)
class LocalFolder:
    """A folder on disk."""

    path: Path
    cache: None = None

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.path.name

    def where(self, name: str) -> str:
        """Path of a file."""
        return str(self.path / name)

    def manifest(self) -> dict[str, Any]:
        """The manifest."""
        return read_shards_manifest(self.path)

    def indexes(self, names: Sequence[str]) -> Iterator[ShardIndex | DamagedShardError]:
        """The index of each shard, or what is wrong with it."""
        for name in names:
            yield index_at(self, name, self.path)

    def open(self, shard: Shard) -> int:
        """A file descriptor of a tar."""
        return os.open(self.path / shard.name, os.O_RDONLY)

    def checksum(self, shard: Shard) -> str:
        """SHA-256 of a tar."""
        return file_fingerprint(self.path / shard.name)


def training_folder(layout: DataLayout, corpus: str) -> ShardFolder:
    """Where training reads the shards of a corpus: on disk, or at a URL through a cache."""
    place = layout.training_shards(corpus)
    return LocalFolder(place) if isinstance(place, Path) else url_folder(layout, place)


def built_folder(layout: DataLayout, corpus: str) -> ShardFolder:
    """Where a build has put the shards of a corpus: on disk, or at the URL its manifest names.

    Raises:
        ArtifactError: there are none.
    """
    folder = layout.shards(corpus)
    url = read_shards_manifest(folder).get("url")
    return LocalFolder(folder) if url is None else url_folder(layout, url)


def url_folder(layout: DataLayout, url: str) -> ShardFolder:
    """The shards of one corpus at a URL, behind the cache of the home."""
    cache = ShardCache(folder=layout.shard_cache, limit_gb=layout.shard_cache_gb)
    return RemoteFolder(url=url, cache=cache)


def intact_indexes(folder: ShardFolder) -> Iterator[ShardIndex]:
    """The index of every shard of the manifest.

    Raises:
        DamagedShardError: one is missing or damaged.
    """
    for index in folder.indexes([entry["name"] for entry in folder.manifest()["shards"]]):
        if isinstance(index, DamagedShardError):
            raise index
        yield index


def index_at(folder: ShardFolder, name: str, path: Path) -> ShardIndex | DamagedShardError:
    """The index of a shard of a folder, from its file below ``path``; or what is wrong with it."""
    try:
        return read_index(index_path(path, name))
    except ArtifactError as error:
        found = str(error).replace(str(path), folder.where("").rstrip("/"))
        damage = Damage(shard=folder.where(name), sample="", problem=f"its index: {found}")
        return DamagedShardError(damage, folder.name)


BLOCK = 16 << 20
"""Bytes of one request for a part of a tar."""


INDEXES_AT_ONCE = 32
"""How many indexes are fetched in one go, and held in memory."""


@dataclass(frozen=True, kw_only=True)
class RemoteFolder:
    """The shards of one corpus at a URL."""

    url: str
    """Without a slash at its end; its last part is the name of the corpus."""
    cache: ShardCache
    """Where its tars are kept."""

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.url.rpartition("/")[2]

    def where(self, name: str) -> str:
        """URL of a file."""
        return f"{self.url}/{name}"

    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            RemoteError: the URL cannot be read.
            ArtifactError: there is no manifest, or it is of a newer format.
        """
        url = self.where(MANIFEST_NAME)
        try:
            content = read_bytes(url)
        except FileNotFoundError:
            raise ArtifactError(
                f"{url} does not exist; put the shards there with: stems shards push {self.name} "
                f"{self.url.rpartition('/')[0]}"
            ) from None
        with tempfile.TemporaryDirectory(prefix="shards-") as here:
            path = Path(here) / self.name  # parsed as one on disk is
            path.mkdir()
            (path / MANIFEST_NAME).write_bytes(content)
            try:
                return read_shards_manifest(path)
            except ArtifactError as error:
                raise ArtifactError(str(error).replace(str(path), self.url)) from None

    def indexes(self, names: Sequence[str]) -> Iterator[ShardIndex | DamagedShardError]:
        """The index of each shard, or what is wrong with it.

        Raises:
            RemoteError: the URL cannot be read.
        """
        with tempfile.TemporaryDirectory(prefix="shards-") as here:
            path = Path(here) / self.name
            path.mkdir()
            for start in range(0, len(names), INDEXES_AT_ONCE):
                wanted = {index_path(path, name): name for name in names[start:][:INDEXES_AT_ONCE]}
                contents = persistently(self.url, lambda files=tuple(wanted): self._read(files))
                for file, name in wanted.items():
                    if (content := contents.get(file)) is not None:
                        file.write_bytes(content)
                    yield index_at(self, name, path)
                    file.unlink(missing_ok=True)

    def open(self, shard: Shard) -> int:
        """A file descriptor of a tar in the cache, fetched when it is not there.

        Raises:
            FileNotFoundError: the tar does not exist.
            DamagedShardError: it is not what its index describes.
            RemoteError: the URL cannot be read.
            ml.shards.cache.CacheRoomError: too little room for the tar.
        """
        url = self.where(shard.name)
        try:
            return self.cache.open(shard.sha256, shard.bytes, lambda: _blocks(url, shard.bytes))
        except WrongContentError as error:
            damage = Damage(shard=url, sample="", problem=str(error))
            raise DamagedShardError(damage, self.name) from None

    def checksum(self, shard: Shard) -> str:
        """SHA-256 of a tar as it lies there, past the cache.

        Raises:
            FileNotFoundError: the tar does not exist.
            RemoteError: it cannot be read.
        """
        digest = hashlib.sha256()
        for block in _blocks(self.where(shard.name), shard.bytes):
            digest.update(block)
        return digest.hexdigest()

    def _read(self, files: Sequence[Path]) -> dict[Path, bytes]:
        """The content of files of the folder, fetched at once; without those that do not exist."""
        system, root = open_url(self.url)
        paths = {f"{root}/{file.name}": file for file in files}
        found = system.cat(list(paths), on_error="return")
        for content in found.values():
            if isinstance(content, BaseException) and not isinstance(content, FileNotFoundError):
                raise content
        return {
            paths[path]: content for path, content in found.items() if isinstance(content, bytes)
        }


def _blocks(url: str, size: int) -> Iterator[bytes]:
    for start in range(0, size, BLOCK):
        yield read_bytes(url, start, min(start + BLOCK, size))
