"""A real server on loopback: starting, stopping, and clients that misbehave."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from ml.cli.main import main
from ml.serve import app

pytestmark = pytest.mark.service

Wav = Callable[..., bytes]
Noise = Callable[..., np.ndarray]
TIMEOUT_S = 120
"""Only bounds a hang."""
MOST_TRIES = 500
"""What a client left behind goes when the server's loop comes to it."""


@pytest.fixture
def web(live_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live_url, timeout=TIMEOUT_S) as client:
        yield client


def start(home: Path, *options: str, scratch: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ml.cli.main", "--home", str(home), "serve", *options]
    env = {**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_starts_answers_and_puts_everything_away(
    served_home: Path, tmp_path: Path, make_noise: Noise, make_wav: Wav, stop: signal.Signals
) -> None:
    server = start(served_home, "--port", "0", scratch=tmp_path)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert url is not None, line + server.stdout.read()
        with httpx.Client(base_url=url[0], timeout=TIMEOUT_S) as web:
            assert web.get("/healthz").json()["status"] == "ok"
            assert "<title>stems</title>" in web.get("/").text
            answer = web.post("/api/mixes", content=make_wav(make_noise(1, 1.5)))
            assert answer.status_code == 201
        assert [path.name for path in tmp_path.glob("stems-serve-*/*.wav")]
        server.send_signal(stop)
        # uvicorn may pass a SIGTERM on to itself once everything is put away.
        assert server.wait(TIMEOUT_S) in ((0,) if stop == signal.SIGINT else (0, -stop))
        assert list(tmp_path.glob("stems-serve-*")) == []
        rest = server.stdout.read()
        assert "Traceback" not in rest, rest
    finally:
        server.kill()
        server.wait()


@pytest.mark.usefixtures("no_starter")
def test_says_in_a_sentence_why_it_does_not_start(
    served_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(home: Path, *options: str) -> str:
        assert main(["--home", str(home), "serve", *options]) == 2
        said = capsys.readouterr().err
        assert said.startswith("stems serve: ")
        assert said.count("\n") == 1
        return said

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "is taken by another program" in refuse(
            served_home, "--port", str(taken.getsockname()[1])
        )
    assert "no model was promoted yet" in refuse(tmp_path, "--port", "0")
    assert "'none' is no model here" in refuse(served_home, "--port", "0", "--model", "none")
    assert "publish a corpus with" in refuse(served_home, "--port", "0", "--model", "contrastive")
    with pytest.raises(SystemExit, match="2"):
        main(["--home", str(served_home), "serve", "--port", "70000"])


def test_warns_when_others_can_reach_it(
    served_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["--home", str(served_home), "serve", "--host", "0.0.0.0", "--port", port]) == 2
    assert "nobody is asked for a password" in capsys.readouterr().out


def test_twenty_queries_at_once_all_succeed(
    web: httpx.Client, make_noise: Noise, make_wav: Wav
) -> None:
    mix = web.post("/api/mixes", content=make_wav(make_noise(3, 3.0))).json()["id"]
    words = ["drum kit", "bass guitar", "grand piano", "a choir of frogs"]

    def ask(number: int) -> tuple[int, list[str]]:
        asked = {"mix": mix, "instrument": words[number % 4], "k": 5}
        answer = web.get("/api/search", params=asked)
        return answer.status_code, [c["key"] for c in answer.json()["candidates"]]

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(ask, range(20)))
    assert {status for status, _ in found} == {200}
    for number in range(4):
        alike = [keys for i, (_, keys) in enumerate(found) if i % 4 == number]
        assert all(keys == alike[0] for keys in alike)


def test_two_gigabytes_are_refused_without_reading_them(live_url: str, web: httpx.Client) -> None:
    place = urlsplit(live_url)
    with socket.create_connection((place.hostname or "", place.port or 0), TIMEOUT_S) as raw:
        head = f"POST /api/mixes HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 2147483648"
        raw.sendall(f"{head}\r\n\r\nRIFF".encode())
        answer = b""
        while part := raw.recv(65_536):  # until the server hangs up
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"expected at most 8,000,000" in answer
    assert web.get("/healthz").status_code == 200


def test_a_refusal_is_read_by_a_client_that_sends_on(web: httpx.Client) -> None:
    """A connection that is closed on bytes under way resets, and the answer is lost."""
    for _ in range(3):
        answer = web.post("/api/mixes", content=(b"RIFF" * 250_000 for _ in range(40)))
        assert answer.status_code == 413
        assert "expected at most 8,000,000" in answer.json()["detail"]


def test_headers_that_do_not_arrive_close_the_connection(
    live_url: str, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "HEADERS_S", 0.3)
    place = urlsplit(live_url)
    head = f"GET /healthz HTTP/1.1\r\nHost: {place.netloc}\r\n"
    for begun in ("", head, f"{head}\r\n{head}"):  # nothing, half a request, one and a half
        with socket.create_connection((place.hostname or "", place.port or 0), TIMEOUT_S) as raw:
            raw.sendall(begun.encode())
            answer = b"".join(iter(lambda: raw.recv(65_536), b""))  # until the server hangs up
        assert answer.count(b"HTTP/1.1 200") == begun.count("\r\n\r\n")
    assert web.get("/healthz").status_code == 200


def test_clients_that_go_away_leave_nothing_behind(
    live_url: str, web: httpx.Client, make_noise: Noise, make_wav: Wav
) -> None:
    mix = web.post("/api/mixes", content=make_wav(make_noise(4, 20.0))).json()["id"]
    before = _private_files()
    place = urlsplit(live_url)
    address = (place.hostname or "", place.port or 0)
    for number in range(12):
        with socket.create_connection(address, TIMEOUT_S) as raw:
            if number % 2:  # a download that is given up
                head = f"GET /api/mixes/{mix}/audio HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n"
                raw.sendall(head.encode())
                raw.recv(1000)
            else:  # an upload that is given up
                head = f"POST /api/mixes HTTP/1.1\r\nHost: {place.netloc}\r\n"
                raw.sendall(f"{head}Content-Length: 5000000\r\n\r\n".encode() + b"RIFF" * 999)
    assert web.get(f"/api/mixes/{mix}/audio").status_code == 200
    for number in range(4):
        content = make_wav(make_noise(50 + number, 1.5))
        sent = (web.post("/api/mixes", content=content).status_code for _ in range(MOST_TRIES))
        assert next(status for status in sent if status != 503) == 201
    left = (
        [name for name in _private_files() - before if name.startswith("upload-")]
        for _ in range(MOST_TRIES)
        if web.get("/healthz").status_code == 200
    )
    assert any(not names for names in left)


def _private_files() -> set[str]:
    folders = Path(tempfile.gettempdir()).glob("stems-serve-*")
    return {path.name for folder in folders for path in folder.iterdir()}


def test_bytes_that_are_no_http_are_survived(live_url: str, web: httpx.Client) -> None:
    place = urlsplit(live_url)
    for rubbish in (b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100_000):
        with socket.create_connection((place.hostname or "", place.port or 0), TIMEOUT_S) as raw:
            raw.sendall(rubbish)
    assert web.get("/healthz").status_code == 200


@pytest.mark.slow
def test_what_the_document_says_holds(live_url: str, web: httpx.Client, tmp_path: Path) -> None:
    """Requests made up from the OpenAPI document: no 5xx, and only answers that it declares."""
    tool = Path(sys.executable).with_name("schemathesis")
    if not tool.exists():
        pytest.skip("schemathesis is not installed")
    command = [str(tool), "run", f"{live_url}openapi.json", "--max-time", "15", "--seed", "1"]
    # What a schema cannot say (whether a filter is SQL, whether a key exists) is refused too.
    command += ["--exclude-checks", "positive_data_acceptance", "--continue-on-failure"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=10 * TIMEOUT_S, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert web.get("/healthz").json()["status"] == "ok"


def test_a_promotion_is_seen_without_a_restart(served_home: Path, tmp_path: Path) -> None:
    """The health endpoint follows ``champion.json``; a model without a table is said to be one."""
    from starlette.testclient import TestClient

    from ml.retrieval.champion.champion import write_champion
    from ml.retrieval.queries.retriever import Retrievers
    from ml.settings import load_settings
    from ml.training.models import find_checkpoint

    home = shutil.copytree(served_home, tmp_path / "home")
    settings = load_settings(home)
    served = app.build_app(settings, Retrievers(settings))
    with TestClient(served, base_url="http://localhost") as client:
        assert client.get("/healthz").json()["model"] == "film"
        checkpoint = find_checkpoint(settings.layout, "contrastive")
        write_champion(settings.layout, "another", checkpoint)
        assert client.get("/healthz").status_code == 503
        film = find_checkpoint(settings.layout, "film")
        write_champion(settings.layout, "back", film)
        assert client.get("/healthz").json()["model"] == "film"
