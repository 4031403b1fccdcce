"""Who may ask, what every answer carries, and the sentence that says what went wrong.

``Guard`` refuses foreign hosts, foreign pages, large and slow bodies, and adds the headers.
Endpoints and the parts below them raise ``HTTPException``; every answer that is not a success is
``{"detail": sentence}``, and names no path of the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Mapping
from http import HTTPStatus
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
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "private, no-cache",  # kept, but asked for again by its ETag
}
CLOSE = {"Connection": "close"}
"""Header of a refusal that leaves the rest of the body unread."""
TRY_AGAIN = {"Retry-After": "2"}
"""Header of a refusal for want of room."""
LINGER_S = 2.0
"""Time in which the rest of a refused body is thrown away, so that the refusal is read."""
_MOST_BODY_BYTES = 500_000
_BODY_S = 30.0
"""Time that such a body may take to arrive."""
_MEANINGS = {
    403: "A page of another site sent this.",
    404: "No such stem, mix or page.",
    408: "The upload took too long to arrive.",
    411: "The length of what is sent must be said first.",
    413: "What was sent is too large.",
    415: "The upload is not a file that can be decoded.",
    416: "The range lies outside the file.",
    422: "A value is wrong; the sentence says which, and what was expected.",
    503: "Nothing can be searched yet, or too many requests are waiting.",
}
_LOG = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a server bound to ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware: refuses foreign hosts and pages, large and slow bodies; adds the headers.

    A page of another site can make its own name point to 127.0.0.1 and then read what a server
    there answers; such a request carries that name as ``Host``. It can also send uploads without
    reading the answer; those carry its name as ``Origin``.

    Hosts are checked here and not by Starlette's ``TrustedHostMiddleware``, which refuses in plain
    text and without the headers.

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

        body = _Body(receive, None if scope["path"] == UPLOAD_PATH else _BODY_S)
        is_closing = False

        async def send_with_headers(message: Message) -> None:
            nonlocal is_closing
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                is_closing = headers.get("connection") == CLOSE["Connection"]
            elif is_closing and not message.get("more_body"):
                await send({**message, "more_body": True})
                await body.throw_away()
                message = {"type": "http.response.body"}
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refuse(scope["method"], headers) or _refuse_body(scope["path"], headers)
        answer = self._app if refusal is None else _problem(*refusal, CLOSE)
        await answer(scope, body.receive, send_with_headers)

    def _refuse(self, method: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        name = _split(f"//{host}")[0]
        if self._hosts is not None and name not in self._hosts:
            known = ", ".join(self._hosts)
            return 400, f"this server does not answer for host {name[:100]!r}; open it as {known}"
        origin = headers.get("origin")
        if method in ("GET", "HEAD") or origin is None or _split(origin)[1] == host.lower():
            return None
        return 403, f"a page of {origin[:100]!r} may not send anything here"


class _Body:
    """What a client sends, while it comes in.

    Args:
        receive: gives the next part.
        lasts_s: how long all of it may take; None: whoever takes it in looks to that.
    """

    def __init__(self, receive: Receive, lasts_s: float | None):
        self._receive = receive
        self._ends_s = None if lasts_s is None else asyncio.get_running_loop().time() + lasts_s
        self._is_whole = False

    async def receive(self) -> Message:
        """Give the next part.

        Raises:
            HTTPException: 408, it did not arrive in time.
        """
        try:
            async with asyncio.timeout_at(None if self._is_whole else self._ends_s):
                message = await self._receive()
        except TimeoutError:
            sentence = f"what was sent did not arrive within {_BODY_S:.0f} s; send it again"
            raise HTTPException(408, sentence, CLOSE) from None
        self._is_whole = not message.get("more_body")
        return message

    async def throw_away(self) -> None:
        """Take in the rest for a while: a connection closed on it resets, its answer is lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self._is_whole:
                    self._is_whole = not (await self._receive()).get("more_body")


def _refuse_body(path: str, headers: Headers) -> tuple[int, str] | None:
    if path == UPLOAD_PATH:
        return None
    if "transfer-encoding" in headers:
        return 411, "how much is sent must be said first; add Content-Length"
    size = int(headers.get("content-length") or 0)
    if size > _MOST_BODY_BYTES:
        return 413, f"{size:,} bytes were sent; expected at most {_MOST_BODY_BYTES:,}"
    return None


def _split(url: str) -> tuple[str, str]:
    """Name and name with port of the host in a URL; empty where there is none."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.netloc.lower()
    except ValueError:
        return "", ""


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """List the problems that an endpoint declares in OpenAPI; 400, 422 and 503 always."""
    return {
        status: {
            "model": Problem,
            "description": _MEANINGS.get(status, "The request is not understood."),
        }
        for status in sorted({*statuses, 400, 422, 503})
    }


def add_handlers(app: FastAPI) -> None:
    """Turn every exception that a request can cause into one sentence."""
    app.add_exception_handler(HTTPException, _answer_problem)
    app.add_exception_handler(RequestValidationError, _answer_wrong_value)
    app.add_exception_handler(ArtifactError, _answer_unavailable)
    app.add_exception_handler(ValueError, _answer_value_error)
    for damage in (RuntimeError, OSError):  # how LanceDB and the system report it
        app.add_exception_handler(damage, _answer_damage)


async def _answer_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    sentence, path = str(error.detail), repr(request.url.path[:200])
    if sentence == HTTPStatus.NOT_FOUND.phrase:  # no route has it: Starlette's own word
        sentence = f"nothing is served at {path}; see /openapi.json"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        sentence = f"{request.method} is not served at {path}"
    return _problem(error.status_code, sentence, error.headers)


async def _answer_wrong_value(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    sentences = []
    for wrong in error.errors():
        place = " ".join(str(part) for part in wrong["loc"] if part not in ("query", "path"))
        sentences.append(f"{place}: {wrong['msg'][:1].lower()}{wrong['msg'][1:]}")
    return _problem(422, "; ".join(sentences))


async def _answer_unavailable(request: Request, error: Exception) -> JSONResponse:
    _LOG.warning("%s", error)
    return _problem(503, _without_places(request, error), {"Retry-After": "30"})


async def _answer_value_error(request: Request, error: Exception) -> JSONResponse:
    return _problem(422, _without_places(request, error))


async def _answer_damage(_: Request, error: Exception) -> JSONResponse:
    _LOG.error("%s", error)
    sentence = "what was asked for cannot be read now; the server's log says why"
    return _problem(503, sentence, {"Retry-After": "30"})


def _without_places(request: Request, error: Exception) -> str:
    """Say what is wrong without where on this machine home and tables lie."""
    sentence = str(error)
    for place in request.app.state.places:
        sentence = sentence.replace(f"{place}/", "").replace(f"{place[1:]}/", "")  # LanceDB: no /
    return sentence


def _problem(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status_code=status, headers=dict(headers or {}))
