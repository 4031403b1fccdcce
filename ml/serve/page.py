"""The page: a fixed set of files, read once. No path of a client ever meets the disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ml.serve.problems import NotFoundError

_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


def page_router() -> APIRouter:
    """Serves ``static``: ``index.html`` at the root, the rest below ``/static``."""
    files = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _TYPES}
    contents = {name: path.read_bytes() for name, path in files.items()}
    etags = {name: f'"{hashlib.sha256(data).hexdigest()[:32]}"' for name, data in contents.items()}
    router = APIRouter(include_in_schema=False)

    def answer(request: Request, name: str) -> Response:
        if name not in contents:
            raise NotFoundError(f"nothing is served at {request.url.path[:200]!r}")
        headers = {"ETag": etags[name], "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == etags[name]:
            return Response(status_code=304, headers=headers)
        return Response(contents[name], media_type=_TYPES[files[name].suffix], headers=headers)

    @router.get("/")
    async def index(request: Request) -> Response:
        return answer(request, "index.html")

    @router.get("/favicon.ico")
    async def favicon(request: Request) -> Response:
        return answer(request, "icon.svg")

    @router.get("/static/{name:path}")
    async def static(name: str, request: Request) -> Response:
        return answer(request, name)

    return router
