"""Small programs in place of a trainer: what is told, reported, and how they are stopped."""

import subprocess
import sys
from typing import Any

import dagster as dg
import psutil
import pytest

from assets_def import launch as launching
from assets_def.launch import Ending, launch

REPORTS = """
import os, signal, sys
from dagster_pipes import open_dagster_pipes
with open_dagster_pipes() as pipes:
    pipes.log.info("twice as much")
    pipes.report_custom_message({"twice": 2 * pipes.extras["number"]})
    if pipes.extras["signal"]:
        os.kill(os.getpid(), pipes.extras["signal"])
sys.exit(pipes.extras["exit_code"])
"""
DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
LISTENS = """
import time
from assets_def.train_process import accept_stop_signals, stop_at_eof
accept_stop_signals()
try:
    stop_at_eof()
    print("ready", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    print("saved", flush=True)
"""


def ending(**extras: Any) -> Ending:
    found = []

    @dg.asset
    def launched(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        told = {"number": 1, "exit_code": 0, "signal": 0, **extras}
        found.append(launch([sys.executable, "-c", REPORTS], context, extras=told))
        return dg.MaterializeResult()

    assert dg.materialize([launched]).success
    return found[0]


def test_a_command_is_told_and_reports():
    assert ending(number=21) == Ending(exit_code=0, messages=({"twice": 42},))


@pytest.mark.parametrize(("told", "exit_code"), [({"exit_code": 3}, 3), ({"signal": 9}, -9)])
def test_how_a_command_ended_is_returned_with_what_it_said_before(
    told: dict[str, int], exit_code: int
):
    assert ending(**told) == Ending(exit_code=exit_code, messages=({"twice": 2},))


def test_what_does_not_stop_is_killed_with_all_it_started(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launching, "STOP_WITHIN_S", 0.1)
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        launching._stop(process, dg.build_asset_context())
    psutil.wait_procs([child], timeout=60)
    assert process.returncode == -9
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_process_stops_when_its_launcher_is_gone():
    with subprocess.Popen(
        [sys.executable, "-c", LISTENS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert process.communicate(timeout=60)[0] == "saved\n"  # closes its input
