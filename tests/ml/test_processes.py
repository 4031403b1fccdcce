import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ml.processes import process_pool

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


def is_running(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
