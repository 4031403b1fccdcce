"""What work runs on beside this process: pools of processes, or an existing Dask cluster.

Work goes in units (one shard, one part of the embeddings) through a ``concurrent.futures`` executor
that is given to the function: its results are the same whoever computes them, and a unit that is
done twice, because who did it first was killed, is there once.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    as_completed,
)
from multiprocessing.connection import wait
from typing import Any, TypeVar

CONNECT_S = 30.0
"""How long a Dask scheduler may take to answer."""
Unit = TypeVar("Unit")
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class WorkersError(RuntimeError):
    """The processes that should do the work cannot be reached, or died over it."""


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@contextlib.contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of fresh processes; what has not begun when the block ends is cancelled.

    They are spawned, not forked: a fork of a process with the threads of polars or torch may hang.
    A pool of the standard library outlives a parent that is killed (its workers hold both ends of
    the queue they wait on); these watch their parent and go when it goes.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_watch_parent) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def cluster(dask_scheduler: str | None) -> Iterator[DaskExecutor | None]:
    """Open the executor that the settings ask for, closed when the block ends.

    Args:
        dask_scheduler: address of an existing cluster (``compute.dask_scheduler``); None: none, the
            functions then work on this machine as they do without an executor.
    """
    if dask_scheduler is None:
        yield None
        return
    executor = DaskExecutor(dask_scheduler)
    try:
        yield executor
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


class DaskExecutor(Executor):
    """An existing Dask cluster; connects when the first unit comes.

    Each unit has a key of its own, so that two runs on one scheduler never meet. A unit whose
    worker dies goes to another, until it has outlived ``distributed.scheduler.allowed-failures``
    of them. A unit that fails is not tried again: a file that cannot be decoded stays so, and the
    network is tried again where it is used.

    Args:
        address: of the scheduler, such as ``tcp://host:8786``.
    """

    def __init__(self, address: str):
        self._address = address
        self._client: Any = None
        self._pool: Any = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand a unit to the cluster.

        Raises:
            WorkersError: no scheduler answers, or ``distributed`` is not installed.
        """
        if self._client is None:
            self._client = _connect(self._address)
            self._pool = self._client.get_executor(pure=False)
        return self._pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster, which goes on; units not waited for are cancelled.

        Args:
            wait: for what was handed in.
            cancel_futures: even so, give up what is not done.
        """
        if self._client is None:
            return
        if wait and not cancel_futures:
            self._pool.shutdown(wait=True)
        self._client.close()
        self._client = None


def completed(
    executor: Executor, function: Callable[[Unit], Result], units: Iterable[Unit]
) -> Iterator[Result]:
    """Results of units in the order in which they come; when one fails, the others are cancelled.

    Args:
        executor: who computes.
        function: of a module, so that it can be sent.
        units: what it is called with.

    Raises:
        WorkersError: workers died over a unit, or the cluster went away; what the caller has kept
            of the results so far stays, and starting again goes on from there.
    """
    pending: set[Future[Result]] = set()
    try:
        pending.update(executor.submit(function, unit) for unit in units)
        for done in as_completed(set(pending)):
            pending.discard(done)  # a result that Dask still held would be made again after a death
            yield done.result()
    except BrokenExecutor as error:
        raise WorkersError(
            f"a worker process died ({error}): killed, or out of memory; start again, what is "
            "finished is kept; if it dies again, use fewer processes"
        ) from None
    except CancelledError:
        raise WorkersError(
            "the work was cancelled: the connection to the Dask scheduler is lost; see whether it "
            "still runs and start again, what is finished is kept"
        ) from None
    except _deaths() as error:
        raise WorkersError(
            f"{error.allowed_failures + 1} workers died over the same unit, the last one at "
            f"{error.last_worker.address}; look at its log and at the memory limit of the workers, "
            "and start again: what is finished is kept"
        ) from None
    finally:
        for future in pending:
            future.cancel()


def scratch_folder() -> str | None:
    """Where a unit may write meanwhile: a folder of its Dask worker, else None: where others do.

    Dask removes the folder of a worker that was killed; nobody does so in ``TMPDIR``.
    """
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker().local_directory
    except ValueError:  # not in a worker
        return None


def _connect(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise WorkersError(
            f"compute.dask_scheduler is {address}, but {error}; install the extra dask: "
            "pip install 'stem-retrieval[dask]'"
        ) from None
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False, name="stems")
    except (OSError, TimeoutError, ValueError) as error:
        raise WorkersError(
            f"no Dask scheduler answers at {address}: {error}; expected the address of a running "
            "one, as in tcp://host:8786 (dask scheduler); or set compute.dask_scheduler to null"
        ) from None
    if not client.scheduler_info()["workers"]:
        _log.warning("the Dask scheduler %s has no workers yet; waiting for the first", address)
    return client


def _deaths() -> Any:
    """Return what Dask raises for a unit over which workers keep dying."""
    if "distributed" not in sys.modules:
        return ()
    from distributed.scheduler import KilledWorker

    return (KilledWorker,)


def _watch_parent() -> None:
    # Ctrl-C reaches the whole group; the parent says so, its workers go without a traceback.
    signal.signal(signal.SIGINT, lambda *_: sys.exit(1))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # not sys.exit: that would end this thread alone
