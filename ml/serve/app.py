"""The application of one home, and the server that runs it with uvicorn until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import h11
import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from uvicorn.protocols.http.h11_impl import H11Protocol

from ml.locks import LockedError, lock
from ml.retrieval.queries.retriever import Retrievers, StemRetriever
from ml.retrieval.tables.database import database_uri
from ml.serve.limits import ServeLimits
from ml.serve.search_routes import search_router, table_router
from ml.serve.security import Guard, add_handlers, is_loopback
from ml.serve.service import Service
from ml.serve.stem_routes import mix_router, stem_router
from ml.settings import Settings

_STATIC = Path(__file__).parent / "static"
HEADERS_S = 10.0
"""Time that the headers of a request may take to arrive."""
_GRACE_S = 5
"""What answers on their way get when the server stops."""
_PREFIX = "stems-serve-"
"""Of the folder of a server's temporary files."""
_LOCK = ".lock"
_DESCRIPTION = """Find the stem that fits with a mix.

Send a mix (`POST /api/mixes`) or make one of a track (`POST /api/tracks/mix`), search with its id
(`GET /api/search`), hear the candidates by their links. Every answer that is not a success is
`{"detail": sentence}`."""


class ServeError(ValueError):
    """The server cannot start."""


def build_app(
    settings: Settings,
    retrievers: Retrievers,
    *,
    host: str = "127.0.0.1",
    limits: ServeLimits | None = None,
) -> FastAPI:
    """Make the application of one home.

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
        remove_leftovers()
        with (
            tempfile.TemporaryDirectory(prefix=_PREFIX) as folder,
            lock(Path(folder) / _LOCK),
        ):
            app.state.service = service = Service(settings, retrievers, limits, Path(folder))
            with contextlib.closing(service.mixes):
                yield

    app = FastAPI(
        title="stems",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # these pages load their scripts from elsewhere
        redoc_url=None,
    )
    layout = settings.layout
    app.state.places = [str(settings.home.resolve()), database_uri(layout, "").rstrip("/")]
    for router in (table_router, mix_router, search_router, stem_router):
        app.include_router(router)
    _add_page(app)
    add_handlers(app)
    app.add_middleware(Guard, hosts=allowed_hosts(host))
    return app


def _add_page(app: FastAPI) -> None:
    """Serve ``index.html`` at the root, and all of ``static`` below ``/static``."""
    files = StaticFiles(directory=_STATIC)
    app.mount("/static", files)

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    @app.get("/favicon.ico", include_in_schema=False)
    async def favicon(request: Request) -> Response:
        return await files.get_response("icon.svg", request.scope)


def allowed_hosts(host: str) -> tuple[str, ...] | None:
    """List what ``Host`` may name when the server is bound to ``host``; None: anything."""
    if not is_loopback(host):
        return None
    return tuple(dict.fromkeys(("127.0.0.1", "localhost", "::1", host.strip("[]"))))


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    model: str | None = None,
    limits: ServeLimits | None = None,
    on_ready: Callable[[str], None],
) -> None:
    """Answer requests until the process is interrupted; what was uploaded is removed then.

    Args:
        settings: of the home.
        host: address to bind to.
        port: 0: any free one.
        model: a name or a checkpoint folder; None: the champion, also after a promotion.
        limits: bounds of uploads, files and work.
        on_ready: gets the URL when requests are answered.

    Raises:
        ServeError: the port is taken or the address is not this machine's.
        ArtifactError: there is no champion, or no table of the model.
        KeyboardInterrupt: it was interrupted, after everything was put away.
    """
    listener = bind(host, port)
    with contextlib.closing(listener):
        retrievers = Retrievers(settings, model)
        retriever = retrievers.current()
        app = build_app(settings, retrievers, host=host, limits=limits)
        _warm_up(retriever)
        listener.listen(128)
        on_ready(url_of(host, listener.getsockname()[1]))
        server_of(app).run(sockets=[listener])


def server_of(app: FastAPI) -> uvicorn.Server:
    """Make the server of an application, which waits for no client without end."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=_Connection,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )


class _Connection(H11Protocol):
    """HTTP/1.1 that is closed where the headers of a request do not arrive in time."""

    _closes: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first headers."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of headers, or no longer."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing."""
        super().connection_lost(exc)
        self._stop_waiting()

    def _wait(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._closes is None:
            self._closes = self.loop.call_later(HEADERS_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._closes is not None:
            self._closes.cancel()
            self._closes = None


def remove_leftovers() -> None:
    """Remove the temporary files of servers of this user that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, LockedError):
            state = folder.lstat()
            is_ours = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid()
            if is_ours and (folder / _LOCK).is_file():
                with lock(folder / _LOCK):
                    shutil.rmtree(folder)


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket to an address.

    Raises:
        ServeError: the port is taken or the address is not this machine's.
    """
    try:
        known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ServeError(f"host {host!r} is not known ({error}); try 127.0.0.1") from None
    family, kind, protocol, _, address = known[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ServeError(
                f"port {port} of {host} is taken by another program; stop it, or choose another "
                f"port with --port (0: any free one)"
            ) from None
        raise ServeError(
            f"cannot listen on port {port} of {host} ({error.strerror}); choose another with "
            f"--host and --port"
        ) from None
    return listener


def url_of(host: str, port: int) -> str:
    """Give the URL to open in a browser."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host).strip("[]")
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"


def _warm_up(retriever: StemRetriever) -> None:
    """Load now what the first mix and the first words would wait for."""
    rate_hz = retriever.model.rate_hz
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * rate_hz).astype(np.float32)
    retriever.embed_mix((noise, rate_hz), "a sound that no corpus names")
