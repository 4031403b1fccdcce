"""Where the shards of a corpus lie, on disk or at a URL behind a cache, and how they get there.

A *folder* of shards gives its manifest, its *indexes* and open *tars*. At a URL indexes are fetched
when asked for, tars whole into a bounded local cache. What is read from a tar is the matter of
``members``.

A *push* puts each tar at a URL, then its index, and the manifest when all of them are there: a
reader finds a shard when its index is there, and a set of shards when the manifest lists it. Tars
are named by their content: what is put twice is there once, and an interrupted push goes on where
it stopped. Nothing at a URL is deleted but by ``stems gc --remote``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, file_fingerprint
from ml.object_store import file_sizes, get_file, put_file, read_bytes, read_files, write_bytes
from ml.progress import progress
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
