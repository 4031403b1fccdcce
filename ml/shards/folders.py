"""Where the shards of a corpus are read from: a folder on disk, or a URL behind a cache.

A *folder* of shards gives its manifest, its *indexes* and open *tars*. At a URL indexes are fetched
when asked for, tars whole into a bounded local cache. What is read from a tar is the matter of
``members``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, file_fingerprint
from ml.object_store import file_sizes, read_bytes, read_files
from ml.shards.cache import ShardCache, WrongContentError
from ml.shards.index import (
    Damage,
    DamagedShardError,
    Payload,
    ShardIndex,
    index_path,
    read_index,
    read_index_head,
    read_shards_manifest,
)

BLOCK = 16 << 20
"""Bytes of one request for a part of a tar."""

INDEXES_AT_ONCE = 32
"""How many indexes are fetched in one go, and held in memory."""


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
        """Take the tar of an index."""
        return cls(name=index.name, sha256=index.sha256, bytes=index.bytes, payload=index.payload)


@dataclass(frozen=True)
class LocalFolder:
    """The shards of one corpus in a folder on disk."""

    path: Path
    url: None = None
    cache: None = None

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.path.name

    def where(self, name: str) -> str:
        """Name the path of a file."""
        return str(self.path / name)

    def sizes(self) -> dict[str, int]:
        """List the files of the folder, hidden ones aside, with their sizes."""
        if not self.path.is_dir():
            return {}
        sizes = {}
        for entry in os.scandir(self.path):
            if not entry.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    sizes[entry.name] = entry.stat().st_size
        return sizes

    def manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises:
            ArtifactError: there is none, or it is of another format.
        """
        return read_shards_manifest(self.path)

    def indexes(
        self, names: Sequence[str], *, has_segments: bool = True
    ) -> Iterator[ShardIndex | DamagedShardError]:
        """Read the index of each shard, or say what is wrong with it.

        Args:
            names: file names of the tars.
            has_segments: False: leave the segments out, which is faster.
        """
        for name in names:
            yield _index_at(self, name, self.path, has_segments)

    def open(self, shard: Shard) -> int:
        """Open a tar: a file descriptor, for the caller to close.

        Raises:
            FileNotFoundError: the tar does not exist.
        """
        return os.open(self.path / shard.name, os.O_RDONLY)

    def checksum(self, shard: Shard) -> str:
        """Compute the SHA-256 of a tar.

        Raises:
            FileNotFoundError: the tar does not exist.
        """
        return file_fingerprint(self.path / shard.name)


@dataclass(frozen=True, kw_only=True)
class RemoteFolder:
    """The shards of one corpus at a URL; every call raises ``RemoteError`` if it cannot be read."""

    url: str
    """Without a slash at its end; its last part is the name of the corpus."""
    cache: ShardCache
    """Where copies of its tars are kept; wants to know when they are used."""

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.url.rpartition("/")[2]

    def where(self, name: str) -> str:
        """Name the URL of a file."""
        return f"{self.url}/{name}"

    def sizes(self) -> dict[str, int]:
        """List the files of the folder with their sizes."""
        return file_sizes(self.url)

    def manifest(self) -> dict[str, Any]:
        """Read the manifest; raises as that of ``LocalFolder``."""
        url = self.where(MANIFEST_NAME)
        try:
            content = read_bytes(url)
        except FileNotFoundError:
            raise ArtifactError(
                f"{url} does not exist; put the shards there with: stems shards push {self.name} "
                f"{self.url.rpartition('/')[0]}"
            ) from None
        with self._empty_folder() as path:  # parsed as one on disk is
            (path / MANIFEST_NAME).write_bytes(content)
            try:
                return read_shards_manifest(path)
            except ArtifactError as error:
                raise ArtifactError(str(error).replace(str(path), self.url)) from None

    def indexes(
        self, names: Sequence[str], *, has_segments: bool = True
    ) -> Iterator[ShardIndex | DamagedShardError]:
        """Read the index of each shard, or say what is wrong with it: see ``LocalFolder``."""
        with self._empty_folder() as path:
            for start in range(0, len(names), INDEXES_AT_ONCE):
                wanted = {index_path(path, name): name for name in names[start:][:INDEXES_AT_ONCE]}
                contents = read_files(self.url, [file.name for file in wanted])
                for file, name in wanted.items():
                    if (content := contents.get(file.name)) is not None:
                        file.write_bytes(content)
                    yield _index_at(self, name, path, has_segments)
                    file.unlink(missing_ok=True)

    def open(self, shard: Shard) -> int:
        """Open a tar in the cache, fetched when it is not there.

        Raises:
            FileNotFoundError: the tar does not exist.
            DamagedShardError: it is not what its index describes.
            ml.shards.cache.CacheRoomError: too little room for the tar.
        """
        url = self.where(shard.name)
        try:
            return self.cache.open(shard.sha256, shard.bytes, lambda: _blocks(url, shard.bytes))
        except WrongContentError as error:
            damage = Damage(shard=url, sample="", problem=str(error))
            raise DamagedShardError(damage, self.name) from None

    def checksum(self, shard: Shard) -> str:
        """Compute the SHA-256 of a tar as it lies there, past the cache.

        Raises:
            FileNotFoundError: the tar does not exist.
        """
        digest = hashlib.sha256()
        for block in _blocks(self.where(shard.name), shard.bytes):
            digest.update(block)
        return digest.hexdigest()

    @contextlib.contextmanager
    def _empty_folder(self) -> Iterator[Path]:
        """Make a temporary folder of the corpus's name: readers of files name it in errors."""
        with tempfile.TemporaryDirectory(prefix="shards-") as parent:
            path = Path(parent) / self.name
            path.mkdir()
            yield path


ShardFolder = LocalFolder | RemoteFolder
"""The shards of one corpus, wherever they lie."""


def training_folder(layout: DataLayout, corpus: str) -> ShardFolder:
    """Find where training reads the shards of a corpus: on disk, or at a URL through a cache."""
    place = layout.training_shards(corpus)
    return LocalFolder(place) if isinstance(place, Path) else url_folder(layout, place)


def built_folder(layout: DataLayout, corpus: str) -> ShardFolder:
    """Find where a build has put the shards of a corpus: on disk, or at the URL of its manifest.

    Raises:
        ArtifactError: there are none.
    """
    folder = layout.shards(corpus)
    url = read_shards_manifest(folder).get("url")
    return LocalFolder(folder) if url is None else url_folder(layout, url)


def url_folder(layout: DataLayout, url: str) -> RemoteFolder:
    """Open the shards of one corpus at a URL, behind the cache of the home."""
    cache = ShardCache(folder=layout.shard_cache, limit_gb=layout.shard_cache_gb)
    return RemoteFolder(url=url, cache=cache)


def intact_indexes(folder: ShardFolder) -> Iterator[ShardIndex]:
    """Read the index of every shard of the manifest.

    Raises:
        DamagedShardError: one is missing or damaged.
    """
    for index in folder.indexes([entry["name"] for entry in folder.manifest()["shards"]]):
        if isinstance(index, DamagedShardError):
            raise index
        yield index


def _index_at(
    folder: ShardFolder, name: str, path: Path, has_segments: bool
) -> ShardIndex | DamagedShardError:
    """Read the index of a shard from its file below ``path``; errors name the folder's file."""
    try:
        return (read_index if has_segments else read_index_head)(index_path(path, name))
    except ArtifactError as error:
        problem = str(error).replace(str(path), folder.where("").rstrip("/"))
        damage = Damage(shard=folder.where(name), sample="", problem=f"its index: {problem}")
        return DamagedShardError(damage, folder.name)


def _blocks(url: str, size: int) -> Iterator[bytes]:
    for start in range(0, size, BLOCK):
        yield read_bytes(url, start, min(start + BLOCK, size))
