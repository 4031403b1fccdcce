"""How much is done at one time: a fixed number of threads, and a bounded number that wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

from ml.serve.problems import BusyError

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
