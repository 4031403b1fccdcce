"""Where the shards of a corpus are read from: a folder on disk, or a URL behind a cache.

A folder of shards gives its manifest, its indexes and open tars; what is read from a tar is the
matter of ``members``. URLs are the matter of ``remote``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ml.artifacts import ArtifactError, DataLayout, file_fingerprint
from ml.shards.cache import ShardCache
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
    from ml.shards.remote import RemoteFolder

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
