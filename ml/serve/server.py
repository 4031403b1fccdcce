"""Runs the application with uvicorn until it is told to stop."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable

import numpy as np
import uvicorn

from ml.retrieval.query import StemRetriever
from ml.retrieval.retrievers import Retrievers
from ml.serve.app import build_app
from ml.serve.limits import ServeLimits
from ml.settings import Settings

_GRACE_S = 5
"""What answers on their way get when the server stops."""


class ServeError(ValueError):
    """The server cannot start."""


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
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_S
        )
        _warm_up(retriever)
        listener.listen(128)
        on_ready(url_of(host, listener.getsockname()[1]))
        uvicorn.Server(config).run(sockets=[listener])


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address.

    Raises:
        ServeError: the port is taken or the address is not this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ServeError(f"host {host!r} is not known ({error}); try 127.0.0.1") from None
    family, kind, protocol, _, address = found[0]
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
    """What to open in a browser."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host).strip("[]")
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"


def _warm_up(retriever: StemRetriever) -> None:
    """Load now what the first mix and the first words would wait for."""
    rate_hz = retriever.model.rate_hz
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * rate_hz).astype(np.float32)
    retriever.embed_mix((noise, rate_hz), "a sound that no corpus names")
