"""What one server holds while it runs.

[admission] How much is done at one time: a fixed number of threads, and a bounded number that wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request

from ml.retrieval.queries.excerpts import StemFiles
from ml.retrieval.queries.home import Retrievers
from ml.retrieval.queries.mix import read_chunks
from ml.retrieval.queries.retriever import StemRetriever
from ml.serve.catalog import Catalog
from ml.serve.limits import ServeLimits
from ml.serve.mixes import Mixes
from ml.serve.security import BusyError
from ml.serve.stem_audio import StemAudio
from ml.serve.uploads import UploadDesk
from ml.settings import Settings


@dataclass(kw_only=True)
class Service:
    """The parts that endpoints use."""

    limits: ServeLimits
    retrievers: Retrievers
    uploads: UploadDesk
    mixes: Mixes
    stems: StemAudio
    queries: WorkQueue
    """Where queries wait."""
    decodes: WorkQueue
    """Where files wait to be decoded."""
    _catalog: Catalog | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def current(self) -> tuple[StemRetriever, Catalog]:
        """The retriever of now, and what its table holds.

        Raises:
            ArtifactError: there is no champion or no table of it.
        """
        retriever = self.retrievers.current()
        with self._lock:
            if self._catalog is None or self._catalog.tables is not retriever.tables:
                self._catalog = Catalog(retriever.tables)
            return retriever, self._catalog

    def catalog(self) -> Catalog:
        """What the table holds now."""
        return self.current()[1]


def make_service(
    settings: Settings, retrievers: Retrievers, limits: ServeLimits, folder: Path
) -> Service:
    """The parts of a server.

    Args:
        settings: of the home.
        retrievers: what answers queries.
        limits: its bounds.
        folder: private and empty; all that is uploaded or decoded lies there.
    """
    files = StemFiles(settings.layout)

    def check(waveform: np.ndarray, rate_hz: int) -> None:
        model = retrievers.current().model
        read_chunks((waveform, rate_hz), model.rate_hz, model.chunk_s)

    return Service(
        limits=limits,
        retrievers=retrievers,
        uploads=UploadDesk(folder, limits),
        mixes=Mixes(folder, files, limits, check),
        stems=StemAudio(folder, files, limits),
        queries=WorkQueue("queries", limits.queries_at_once, limits.waiting),
        decodes=WorkQueue("files", limits.decodes_at_once, limits.waiting),
    )


def _service_of(request: Request) -> Service:
    return request.app.state.service


TheService = Annotated[Service, Depends(_service_of)]
"""What an endpoint takes."""


P = ParamSpec("P")


T = TypeVar("T")


class WorkQueue:
    """Runs blocking work in threads; made and used in one event loop.

    Args:
        name: what waits, for the error: "queries".
        at_once: how many run.
        waiting: how many may wait besides.
    """

    def __init__(self, name: str, at_once: int, waiting: int):
        self._name = name
        self._limiter = CapacityLimiter(at_once)
        self._most = at_once + waiting
        self._pending = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` returns.

        Raises:
            BusyError: too many wait already.
        """
        if self._pending >= self._most:
            raise BusyError(f"{self._pending} {self._name} are waiting already; try again soon")
        self._pending += 1
        try:
            return await to_thread.run_sync(lambda: work(*args, **kwargs), limiter=self._limiter)
        finally:
            self._pending -= 1
