"""Servers on loopback, as users start them, and a headless browser."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

DEADLINE_S = 300
"""Bounds a hang; nothing is expected to take this long."""
_INTERRUPTIBLE = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
"""A process in the background of a shell ignores SIGINT, and so would what it starts."""
_QUIET = {
    "DO_NOT_TRACK": "true",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, kw_only=True)
class Server:
    """One that answers."""

    url: str
    log: Path
    """What it writes to the terminal."""
    process: psutil.Process

    def stop(self) -> None:
        """As Ctrl-C does; then no process of it is left."""
        started = [self.process, *self.process.children(recursive=True)]
        os.killpg(self.process.pid, signal.SIGINT)
        _, left = psutil.wait_procs(started, timeout=DEADLINE_S)
        for process in left:
            process.kill()
        assert not left, f"still there after Ctrl-C: {left}\n{self.log.read_text()}"


def serve(
    command: Sequence[str], ready: str, log: Path, cwd: Path, env: dict[str, str]
) -> Server | None:
    """Start a server on a free port; None when someone else took the port meanwhile.

    Args:
        command: the program (of this environment) and its arguments; ``{port}`` is filled in.
        ready: path that answers once it is ready.
        log: where it writes.
        cwd: where it is started.
        env: variables for it; those named ``STEMS_…`` are not inherited.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name(command[0]))
    words = [program, *(word.replace("{port}", str(port)) for word in command[1:])]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STEMS_")}
    with log.open("w") as output:
        started = subprocess.Popen(
            [sys.executable, "-c", _INTERRUPTIBLE, *words],
            cwd=cwd,
            env={**inherited, **_QUIET, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(url=f"http://127.0.0.1:{port}", log=log, process=psutil.Process(started.pid))
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if started.poll() is not None:
            said = log.read_text()
            assert "address already in use" in said, said
            return None
        if _answers(server.url + ready):
            return server
        time.sleep(0.1)
    server.stop()
    raise AssertionError(f"it does not answer:\n{log.read_text()}")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts servers that are stopped after the module's tests; arguments are of ``serve``."""
    servers: list[Server] = []

    def start(*command: str, ready: str, cwd: Path, **env: str) -> Server:
        log = tmp_path_factory.mktemp("server") / f"{command[0]}.log"
        server = None
        while server is None:
            server = serve(command, ready, log, cwd, env)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh page; fails when one of its scripts has."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    page, errors = context.new_page(), []
    page.set_default_timeout(DEADLINE_S * 1000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []
