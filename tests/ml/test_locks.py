"""A lock names its holder, and dies with it."""

import subprocess
import sys

import pytest

from ml.locks import LockedError, lock


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    path = tmp_path / "run" / ".lock"
    program = (
        "import sys, time; from pathlib import Path; from ml.locks import lock\n"
        f"with lock(Path({str(path)!r})):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=f"process {holder.pid} on "), lock(path):
        pass
    holder.kill()  # SIGKILL: no chance to clean up
    holder.wait()
    with lock(path):
        pass
