"""A file as an answer: whole or a range of it (RFC 9110, sections 13 and 14), with an ETag.

The file is opened before the answer begins, so that it may be removed meanwhile.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ml.serve.security import NotFoundError, problem

_PART_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def serve_file(
    request: Request,
    file: Path | bytes,
    media_type: str,
    *,
    version: str,
    save_as: str | None = None,
) -> Response:
    """Answer with a file.

    Args:
        request: may ask for one range (several are answered with the whole file, as RFC 9110
            allows), or only for a newer version.
        file: where it lies, or what it holds.
        media_type: of its content.
        version: changes with its content.
        save_as: file name, when it is to be kept rather than played.

    Raises:
        NotFoundError: the file is gone.
    """
    etag = f'"{version[:64]}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache"}
    if save_as is not None:
        plain = save_as.encode("ascii", "replace").decode().replace("?", "_")
        headers["Content-Disposition"] = (
            f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(save_as)}"
        )
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    opened, size = _open(file)
    wanted = _wanted(request, etag, size)
    if wanted is None:
        opened.close()
        sentence = f"the range lies outside the {size} bytes of this file"
        return problem(416, sentence, {"Content-Range": f"bytes */{size}"})
    return _FileAnswer(opened, media_type, headers, *wanted, size)


def piece_version(version: str, start_s: float, duration_s: float | None) -> str:
    """The version of a piece of something: a prefix of its own, and which piece it is."""
    length = "end" if duration_s is None else f"{duration_s:.6f}"
    return f"{version[:20]}-{start_s:.6f}-{length}"


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """The range that a ``Range`` header asks for.

    Args:
        header: its value.
        size: of the file, in bytes.

    Returns:
        (first byte, byte after the last), the whole file for a header that is not understood or
        names several ranges; None when the range lies outside the file.
    """
    match = _RANGE.fullmatch(header.strip().replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return 0, size
    first, last = match.groups()
    if not first:  # the last so many bytes
        return (max(0, size - int(last)), size) if int(last) and size else None
    if last and int(last) < int(first):
        return 0, size
    return (int(first), min(size, int(last) + 1 if last else size)) if int(first) < size else None


def _open(file: Path | bytes) -> tuple[BinaryIO, int]:
    if isinstance(file, bytes):
        return io.BytesIO(file), len(file)
    try:
        opened = file.open("rb")
    except FileNotFoundError:
        raise NotFoundError(f"{file.name} has gone meanwhile; ask again") from None
    return opened, os.fstat(opened.fileno()).st_size


def _wanted(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    header = request.headers.get("range")
    is_same = request.headers.get("if-range", etag) == etag
    return byte_range(header, size) if header is not None and is_same else (0, size)


class _FileAnswer(Response):
    """Bytes ``first`` to ``end`` of a file that is open already."""

    def __init__(
        self,
        file: BinaryIO,
        media_type: str,
        headers: dict[str, str],
        first: int,
        end: int,
        size: int,
    ):
        self._file = file
        self._first, self._end = first, end
        is_part = (first, end) != (0, size)
        if is_part:
            headers = {**headers, "Content-Range": f"bytes {first}-{end - 1}/{size}"}
        super().__init__(
            status_code=206 if is_part else 200,
            headers={**headers, "Content-Length": str(end - first)},
            media_type=media_type,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        start = {"type": "http.response.start", "status": self.status_code}
        try:
            await send({**start, "headers": self.raw_headers})
            file = anyio.wrap_file(self._file)
            await file.seek(self._first)
            left = self._end - self._first
            while left:
                part = await file.read(min(_PART_BYTES, left))
                if not part:
                    raise RuntimeError("the file became shorter while it was sent")
                left -= len(part)
                await send({"type": "http.response.body", "body": part, "more_body": left > 0})
            if self._first == self._end:
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._file.close()
