"""The application: parts, endpoints, errors and guards put together."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI

from ml.retrieval.retrievers import Retrievers
from ml.serve import mix_routes, search_routes, stem_routes, table_routes
from ml.serve.limits import ServeLimits
from ml.serve.page import page_router
from ml.serve.problems import add_handlers
from ml.serve.security import Guard, is_loopback
from ml.serve.service import make_service
from ml.settings import Settings

_DESCRIPTION = """Find the stem that fits with a mix.

Send a mix (`POST /api/mixes`) or make one of a track (`POST /api/tracks/mix`), search with its id
(`GET /api/search`), hear the candidates by their links. Every answer that is not a success is
`{"detail": sentence}`."""


def build_app(
    settings: Settings,
    retrievers: Retrievers,
    *,
    host: str = "127.0.0.1",
    limits: ServeLimits | None = None,
) -> FastAPI:
    """The application of one home.

    Args:
        settings: of the home.
        retrievers: what answers queries.
        host: what the server is bound to; on loopback only requests for a name of this machine
            are answered.
        limits: bounds of uploads, files and work.
    """
    limits = limits or ServeLimits()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="stems-serve-") as folder:
            app.state.service = make_service(settings, retrievers, limits, Path(folder))
            yield

    app = FastAPI(
        title="stems",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # these pages load their scripts from elsewhere
        redoc_url=None,
    )
    for module in (table_routes, mix_routes, search_routes, stem_routes):
        app.include_router(module.router)
    app.include_router(page_router())
    add_handlers(app)
    app.add_middleware(Guard, hosts=allowed_hosts(host))
    return app


def allowed_hosts(host: str) -> tuple[str, ...] | None:
    """What ``Host`` may name when the server is bound to ``host``; None: anything."""
    if not is_loopback(host):
        return None
    return tuple(dict.fromkeys(("127.0.0.1", "localhost", "::1", host.strip("[]"))))
