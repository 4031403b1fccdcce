"""Files behind URLs, through fsspec: read, write, list, remove; tried again when a network fails.

Any scheme of fsspec works: ``s3://bucket/prefix`` needs ``s3fs`` beside it. Endpoint and
credentials come from the environment (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, …) and are
written down nowhere. fsspec is imported only when a URL is used.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ml.artifacts import ArtifactError

_log = logging.getLogger(__name__)
T = TypeVar("T")

WAITS_S = (0.5, 2.0, 8.0)
"""Pauses between tries when the network fails; one try more than pauses."""


class RemoteError(ArtifactError):
    """A URL cannot be read or written: the network, its endpoint or its credentials."""


class UnreachableError(RemoteError):
    """The network failed too often: the same command may do later."""


def open_url(url: str) -> tuple[Any, str]:
    """Open the fsspec file system of a URL, made for this process; return it and the path in it.

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
    """Read the bytes of a URL, or a range of them.

    Raises:
        FileNotFoundError: it does not exist.
        RemoteError: it cannot be read.
    """
    return _at(url, lambda system, path: system.cat_file(path, start=start, end=end))


def read_files(url: str, names: Sequence[str]) -> dict[str, bytes]:
    """Read files of a folder in one go: name and content of those that exist.

    Raises:
        RemoteError: one of them cannot be read.
    """

    def read(system: Any, root: str) -> dict[str, bytes]:
        paths = {f"{root}/{name}": name for name in names}
        contents = system.cat(list(paths), on_error="return")
        for content in contents.values():
            if isinstance(content, BaseException) and not isinstance(content, FileNotFoundError):
                raise content
        return {paths[x]: content for x, content in contents.items() if isinstance(content, bytes)}

    return _at(url, read)


def get_file(url: str, path: Path) -> None:
    """Copy a file from a URL.

    Raises:
        FileNotFoundError: it does not exist.
        RemoteError: it cannot be read.
    """
    _at(url, lambda system, source: system.get_file(source, str(path)))


def put_file(path: Path, url: str) -> None:
    """Copy a file to a URL.

    Raises:
        ArtifactError: there is no such bucket.
        RemoteError: the URL cannot be written.
    """
    _write(url, lambda system, target: system.put_file(str(path), target))


def write_bytes(url: str, content: bytes) -> None:
    """Write a small file to a URL.

    Raises:
        ArtifactError: there is no such bucket.
        RemoteError: the URL cannot be written.
    """
    _write(url, lambda system, target: system.pipe_file(target, content))


def remove_file(url: str) -> None:
    """Remove a file; one that is not there is fine.

    Raises:
        RemoteError: the URL cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        _at(url, lambda system, path: system.rm_file(path))


def file_sizes(url: str, names: Sequence[str] | None = None) -> dict[str, int]:
    """List a folder: name and size of each file; empty where there is none.

    Args:
        url: of the folder; one on disk is made.
        names: look at these alone; None: all.

    Raises:
        RemoteError: the URL cannot be read.
    """

    def look(system: Any, root: str) -> dict[str, int]:
        system.invalidate_cache()
        if "file" in system.protocol:
            system.makedirs(root, exist_ok=True)
        if names is not None:
            paths = {name: f"{root}/{name}" for name in names}
            return {name: system.size(path) for name, path in paths.items() if system.exists(path)}
        try:
            entries = system.ls(root, detail=True)
        except FileNotFoundError:
            return {}
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries}

    return _at(url, look)


def persistently(url: str, work: Callable[[], T]) -> T:
    """Do ``work`` and return what it returns; try again when the network fails.

    Raises:
        FileNotFoundError: what ``work`` wants does not exist.
        RemoteError: it failed for another reason; names the URL and what to do.
        UnreachableError: it failed too often.
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
                raise UnreachableError(
                    f"{url} cannot be reached, tried {len(WAITS_S) + 1} times: {error}; check the "
                    "network and AWS_ENDPOINT_URL, then start again: what was done is kept"
                ) from None
            _log.warning("%s: %s; trying again in %g s", url, error, wait_s)
            time.sleep(wait_s)
    raise AssertionError("the last try returns or raises")


def _at(url: str, work: Callable[[Any, str], T]) -> T:
    """Do ``work`` with the file system of a URL and the path in it, opened anew in each try."""
    return persistently(url, lambda: work(*open_url(url)))


def _write(url: str, work: Callable[[Any, str], None]) -> None:
    try:
        _at(url, work)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{url} cannot be written: {error}; expected a bucket that exists; make it first"
        ) from None


def _refusals() -> tuple[type[Exception], ...]:
    """Name the errors that trying again does not mend."""
    try:
        from botocore.exceptions import NoCredentialsError  # pyright: ignore[reportMissingImports]
    except ImportError:
        return (PermissionError,)
    return (PermissionError, NoCredentialsError)


def _failures() -> tuple[type[Exception], ...]:
    """Name the errors of the network, as the packages in use define them."""
    errors: list[type[Exception]] = [OSError, TimeoutError]
    try:
        from aiohttp import ClientError

        errors.append(ClientError)
        from botocore.exceptions import BotoCoreError  # pyright: ignore[reportMissingImports]

        errors.append(BotoCoreError)
    except ImportError:
        pass
    return tuple(errors)
