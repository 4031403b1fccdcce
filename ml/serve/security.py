"""What every answer carries, and who may ask: headers, host names, pages of other sites."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml.serve.problems import problem

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
