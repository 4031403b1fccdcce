"""Large files over HTTP: resumed where they broke off, checked by their hash, renamed when whole.

What has arrived lies beside the target as ``<name>.part``; after a break, or in another process
tomorrow, only the rest is asked for (HTTP ``Range``). A server that does not do ranges is asked
for all of it again.
"""

from __future__ import annotations

import http.client
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ml.artifacts import file_fingerprint
from ml.progress import ProgressBar

TRIES = 6
"""In a row without a byte of progress."""
TIMEOUT_S = 30.0
_BLOCK_BYTES = 1 << 20
_MB = 1_000_000
_TRANSIENT_CODES = (408, 425, 429)
_log = logging.getLogger(__name__)


class DownloadError(RuntimeError):
    """A file could not be downloaded, or it is not the one that was expected."""


def download(
    url: str,
    path: Path,
    *,
    sha256: str,
    size_bytes: int,
    tries: int = TRIES,
    wait_s: float = 1.0,
) -> None:
    """Get a file; nothing is at ``path`` before it is whole and its hash is right.

    Args:
        url: where it is.
        path: where it goes; a file already there is replaced.
        sha256: of the file, 64 hexadecimal digits.
        size_bytes: of the file.
        tries: how often to go on after a break, in a row without progress.
        wait_s: pause before the first of these, doubled each time.

    Raises:
        DownloadError: the server does not have it, breaks off again and again, or offers another
            file; or there is too little space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    free = shutil.disk_usage(path.parent).free + _size(part)
    if free < size_bytes:
        raise DownloadError(
            f"{path.parent} has {free / _MB:.0f} MB free, expected {size_bytes / _MB:.0f} MB for "
            f"{path.name}; make room or set STEMS_HOME to another disk"
        )
    label, total = f"{path.name} (MB)", -(-size_bytes // _MB)
    with ProgressBar(total=total, label=label, done=_size(part) // _MB) as bar:
        _receive_all(url, part, size_bytes, tries, wait_s, lambda done: bar.update_to(done // _MB))
        bar.update_to(total)
    found = file_fingerprint(part)
    if found != sha256:
        part.unlink()
        raise DownloadError(
            f"{url} gave a file with SHA-256 {found}, expected {sha256}; it was deleted: try "
            f"again, and if that gives the same, do not trust this server"
        )
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def _receive_all(
    url: str,
    part: Path,
    size_bytes: int,
    tries: int,
    wait_s: float,
    show: Callable[[int], None],
) -> None:
    failed = 0
    while (before := _size(part)) != size_bytes:
        try:
            _receive(url, part, size_bytes, show)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and not _is_transient(error.code):
                raise DownloadError(f"{url} answers {error.code} {error.reason}") from None
            failed = 1 if _size(part) > before else failed + 1
            reason = f"{type(error).__name__}: {error}"
            if failed >= tries:
                raise DownloadError(
                    f"{url} broke off {failed} times at {_size(part)} of {size_bytes} bytes "
                    f"({reason}); what has arrived is kept: the same command goes on from there"
                ) from None
            _log.info("%s at %d bytes (%s); going on", part.name, _size(part), reason)
            time.sleep(wait_s * 2 ** (failed - 1))


def _receive(url: str, part: Path, size_bytes: int, show: Callable[[int], None]) -> None:
    """Ask once for what is missing and append it.

    Raises:
        OSError: the connection failed or ended too early.
        DownloadError: the server offers a file of another size.
    """
    start = _size(part)
    if start > size_bytes:
        part.unlink()
        start = 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "stems"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the server sends all of it
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise DownloadError(
                f"{url} answers the range {answer.headers.get('Content-Range')!r}, asked for was "
                f"{start}-; try again later or use another server"
            )
        length = answer.headers.get("Content-Length")
        if length is not None and start + int(length) != size_bytes:
            raise DownloadError(
                f"{url} offers {start + int(length)} bytes, expected {size_bytes}; this is another "
                f"file (or a page that says why not)"
            )
        with part.open("ab" if start else "wb") as file:
            while block := answer.read(_BLOCK_BYTES):
                file.write(block)
                show(start := start + len(block))
    if start < size_bytes:
        raise ConnectionError("the connection ended too early")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _is_transient(code: int) -> bool:
    return code >= 500 or code in _TRANSIENT_CODES
