"""Shards behind a URL: indexes are fetched when opened, tars whole into a bounded local cache.

Any scheme of fsspec works: ``s3://bucket/prefix/demo`` needs ``s3fs`` beside it. Endpoint and
credentials come from the environment (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, …) and are
written down nowhere. fsspec is imported only here, when a URL is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ml.artifacts import MANIFEST_NAME, ArtifactError
from ml.shards.cache import ShardCache, WrongContentError
from ml.shards.damage import Damage, DamagedShardError
from ml.shards.folders import Shard, index_at
from ml.shards.index import ShardIndex, index_path, read_shards_manifest

_log = logging.getLogger(__name__)
T = TypeVar("T")

WAITS_S = (0.5, 2.0, 8.0)
"""Pauses between tries when the network fails; one try more than pauses."""

BLOCK = 16 << 20
"""Bytes of one request for a part of a tar."""

INDEXES_AT_ONCE = 32
"""How many indexes are fetched in one go, and held in memory."""


class RemoteError(ArtifactError):
    """A URL cannot be read or written: the network, its endpoint or its credentials."""


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


def open_url(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, made for this process, and the path in it.

    Raises:
        RemoteError: the scheme is unknown, or its package is not installed.
    """
    try:
        import fsspec

        return fsspec.url_to_fs(url)
    except ImportError as error:
        raise RemoteError(
            f"{url} cannot be opened: {error}; install the package, or use shards on disk"
        ) from None
    except ValueError as error:
        raise RemoteError(
            f"{url} cannot be opened: {error}; expected a URL such as s3://bucket/prefix"
        ) from None


def read_bytes(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes of a URL, or a range of them.

    Raises:
        FileNotFoundError: it does not exist.
        RemoteError: it cannot be read.
    """

    def read() -> bytes:
        system, path = open_url(url)
        return system.cat_file(path, start=start, end=end)

    return persistently(url, read)


def remove_file(url: str) -> None:
    """Remove a file; one that is not there is fine.

    Raises:
        RemoteError: the URL cannot be written.
    """

    def remove() -> None:
        system, path = open_url(url)
        system.rm_file(path)

    with contextlib.suppress(FileNotFoundError):
        persistently(url, remove)


def file_sizes(url: str, names: Sequence[str] | None = None) -> dict[str, int]:
    """Name and size of each file of a folder; empty where there is none.

    Args:
        url: of the folder; one on disk is made.
        names: look at these alone; None: all.

    Raises:
        RemoteError: the URL cannot be read.
    """

    def look() -> dict[str, int]:
        system, root = open_url(url)
        system.invalidate_cache()
        if "file" in system.protocol:
            system.makedirs(root, exist_ok=True)
        if names is not None:
            paths = {name: f"{root}/{name}" for name in names}
            return {name: system.size(path) for name, path in paths.items() if system.exists(path)}
        try:
            found = system.ls(root, detail=True)
        except FileNotFoundError:
            return {}
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in found}

    return persistently(url, look)


def persistently(url: str, work: Callable[[], T]) -> T:
    """What ``work`` returns, tried again when the network fails.

    Raises:
        FileNotFoundError: what ``work`` wants does not exist.
        RemoteError: it failed for another reason, or too often; names the URL and what to do.
    """
    for wait_s in (*WAITS_S, None):
        try:
            return work()
        except (FileNotFoundError, ArtifactError):
            raise
        except _refusals() as error:
            raise RemoteError(
                f"{url} is refused: {error}; check the credentials in the environment "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and that they may use this bucket"
            ) from None
        except _failures() as error:
            if wait_s is None:
                raise RemoteError(
                    f"{url} cannot be reached, tried {len(WAITS_S) + 1} times: {error}; check the "
                    "network and AWS_ENDPOINT_URL, then start again: what was done is kept"
                ) from None
            _log.warning("%s: %s; trying again in %g s", url, error, wait_s)
            time.sleep(wait_s)
    raise AssertionError("the last try returns or raises")


def _blocks(url: str, size: int) -> Iterator[bytes]:
    for start in range(0, size, BLOCK):
        yield read_bytes(url, start, min(start + BLOCK, size))


def _refusals() -> tuple[type[Exception], ...]:
    """Errors that trying again does not mend."""
    try:
        from botocore.exceptions import NoCredentialsError  # pyright: ignore[reportMissingImports]
    except ImportError:
        return (PermissionError,)
    return (PermissionError, NoCredentialsError)


def _failures() -> tuple[type[Exception], ...]:
    """Errors of the network, as the packages in use name them."""
    found: list[type[Exception]] = [OSError, TimeoutError]
    try:
        from aiohttp import ClientError

        found.append(ClientError)
        from botocore.exceptions import BotoCoreError  # pyright: ignore[reportMissingImports]

        found.append(BotoCoreError)
    except ImportError:
        pass
    return tuple(found)
