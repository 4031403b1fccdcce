import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from ml import processes
from ml.processes import WorkersError, cluster, completed, process_pool

PARENT = """
import os, time
from ml.processes import process_pool

if __name__ == "__main__":
    with process_pool(2) as pool:
        print(*[pool.submit(os.getpid).result() for _ in range(4)], flush=True)
        pool.submit(time.sleep, 600)
        time.sleep(600)
"""


def test_a_pool_computes_and_passes_errors_on():
    with process_pool(1) as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()


def test_workers_go_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = {int(word) for word in parent.stdout.readline().split()}
    assert workers
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.02)


def test_results_come_as_they_are_done():
    first_may_end = threading.Event()

    def unit(number):
        if number == 0:
            assert first_may_end.wait(60)
        return number

    with ThreadPoolExecutor(2) as pool:
        found = completed(pool, unit, range(3))
        assert {next(found), next(found)} == {1, 2}
        first_may_end.set()
        assert list(found) == [0]


def test_when_a_unit_fails_what_has_not_begun_is_cancelled():
    begun, second_may_end = [], threading.Event()

    def unit(number):
        begun.append(number)
        if number == 0:
            raise ZeroDivisionError
        assert second_may_end.wait(60)

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ZeroDivisionError):
            list(completed(pool, unit, range(9)))
        second_may_end.set()
    assert set(begun) <= {0, 1}


def test_a_worker_of_a_pool_that_dies_is_named():
    with (
        process_pool(1) as pool,
        pytest.raises(WorkersError, match=r"a worker process died .*start again, what is finished"),
    ):
        list(completed(pool, os._exit, [3]))


def test_a_cluster_that_goes_away_is_named():
    class LosingExecutor(Executor):
        """Cancels what it was given, as Dask's client does when its scheduler is gone."""

        def submit(self, *_, **__):
            future = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    with pytest.raises(WorkersError, match="the connection to the Dask scheduler is lost"):
        list(completed(LosingExecutor(), abs, [-1]))


def test_without_a_cluster_there_is_no_executor():
    with cluster(None) as executor:
        assert executor is None


def test_a_scheduler_that_is_not_there_is_named_when_it_is_needed(monkeypatch):
    monkeypatch.setattr(processes, "CONNECT_S", 0.2)
    pytest.importorskip("distributed")
    with cluster("tcp://127.0.0.1:9") as executor:
        assert executor is not None  # nothing was to be done so far
        with pytest.raises(WorkersError, match=r"answers at tcp://127\.0\.0\.1:9.*dask_scheduler"):
            list(completed(executor, abs, [-1]))
    with cluster("127.0.0.1:no port") as executor:
        assert executor is not None
        with pytest.raises(WorkersError, match="expected the address of a running one"):
            executor.submit(abs, -1)


def test_dask_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with cluster("tcp://127.0.0.1:9") as executor:
        assert executor is not None
        with pytest.raises(WorkersError, match=r"install the extra dask"):
            executor.submit(abs, -1)


def is_running(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
