"""What every answer carries, and who may ask: headers, host names, pages of other sites.

[problems] What can go wrong with a request: an exception each, with the status it becomes.

Every answer that is not a success is ``{"detail": sentence}``.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml.artifacts import ArtifactError
from ml.serve.schemas import Problem

UPLOAD_PATH = "/api/mixes"
"""The one place that takes large bodies, and bounds them itself."""


_MOST_BODY_BYTES = 500_000


HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "private, no-cache",  # kept, but asked for again by its ETag
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware: refuses foreign hosts, foreign pages, large bodies; adds the headers.

    A page of another site can make its own name point to 127.0.0.1 and then read what a server
    there answers; such a request carries that name as ``Host``. It can also send uploads without
    reading the answer; those carry its name as ``Origin``.

    Args:
        app: what is guarded.
        hosts: names that ``Host`` may hold, without a port; None: any (not bound to loopback).
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] | None):
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope["method"], headers) or _too_large(scope["path"], headers)
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
        else:
            status, sentence = refusal
            closing = {"Connection": "close"}  # what else was sent is not read
            await problem(status, sentence, closing)(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        name = _name(host)
        if self._hosts is not None and name not in self._hosts:
            known = ", ".join(self._hosts)
            return 400, f"this server does not answer for host {name[:100]!r}; open it as {known}"
        origin = headers.get("origin")
        if method in ("GET", "HEAD") or origin is None or _site(origin) == host.lower():
            return None
        return 403, f"a page of {origin[:100]!r} may not send anything here"


def _too_large(path: str, headers: Headers) -> tuple[int, str] | None:
    if path == UPLOAD_PATH:
        return None
    if "transfer-encoding" in headers:
        return 411, "how much is sent must be said first; add Content-Length"
    size = int(headers.get("content-length") or 0)
    if size > _MOST_BODY_BYTES:
        return 413, f"{size:,} bytes were sent; expected at most {_MOST_BODY_BYTES:,}"
    return None


def _site(origin: str) -> str:
    """An ``Origin`` header without its scheme; empty for one that is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """A ``Host`` header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


_LOG = logging.getLogger(__name__)


_MEANINGS = {
    403: "A page of another site sent this.",
    404: "No such stem, mix or page.",
    411: "The length of what is sent must be said first.",
    413: "What was sent is too large.",
    415: "The upload is not a file that can be decoded.",
    416: "The range lies outside the file.",
    422: "A value is wrong; the sentence says which, and what was expected.",
    408: "The upload took too long to arrive.",
    503: "Nothing can be searched yet, or too many requests are waiting.",
}


class RequestError(ValueError):
    """A request that cannot be answered; the message is the one sentence for the client."""

    status = 422


class NotFoundError(RequestError):
    """What was asked for is not there."""

    status = 404


class TooLargeError(RequestError):
    """An upload is over a bound."""

    status = 413


class NotAudioError(RequestError):
    """An upload does not hold audio, whatever its name says."""

    status = 415


class TooSlowError(RequestError):
    """An upload did not arrive in time."""

    status = 408


class BusyError(RequestError):
    """Too many requests are waiting already."""

    status = 503


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that an endpoint declares in OpenAPI; 422 and 503 always."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*statuses, 400, 422, 503}):
        meaning = _MEANINGS.get(status, "The request is not understood.")
        found[status] = {"model": Problem, "description": meaning}
    return found


def add_handlers(app: FastAPI) -> None:
    """Turn every exception that a request can cause into one sentence."""
    app.add_exception_handler(RequestError, _request_problem)
    app.add_exception_handler(ArtifactError, _unavailable)
    app.add_exception_handler(RequestValidationError, _wrong_value)
    app.add_exception_handler(ValueError, _value_error)
    app.add_exception_handler(HTTPException, _http_error)


def problem(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a request that cannot be answered."""
    return JSONResponse({"detail": sentence}, status_code=status, headers=dict(headers or {}))


async def _request_problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    headers = {"Retry-After": "2"} if isinstance(error, BusyError) else {}
    if isinstance(error, (TooLargeError, TooSlowError)):
        headers["Connection"] = "close"  # the rest of the upload is not read
    return problem(error.status, str(error), headers)


async def _unavailable(_: Request, error: Exception) -> JSONResponse:
    _LOG.warning("%s", error)
    return problem(503, str(error), {"Retry-After": "30"})


async def _wrong_value(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    parts = []
    for found in error.errors():
        place = " ".join(str(part) for part in found["loc"] if part not in ("query", "path"))
        parts.append(f"{place}: {found['msg'][:1].lower()}{found['msg'][1:]}")
    return problem(422, "; ".join(parts))


async def _value_error(_: Request, error: Exception) -> JSONResponse:
    return problem(422, str(error))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    sentence = str(error.detail)
    if error.status_code == 404:
        sentence = f"nothing is served at {request.url.path[:200]!r}; see /openapi.json"
    elif error.status_code == 405:
        sentence = f"{request.method} is not served at {request.url.path[:200]!r}"
    return problem(error.status_code, sentence, error.headers)
