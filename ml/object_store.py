"""Files behind URLs, through fsspec: read, list, remove, and try again when a network fails."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ml.artifacts import ArtifactError

_log = logging.getLogger(__name__)


T = TypeVar("T")


WAITS_S = (0.5, 2.0, 8.0)
"""Pauses between tries when the network fails; one try more than pauses."""


class RemoteError(ArtifactError):
    """A URL cannot be read or written: the network, its endpoint or its credentials."""


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
