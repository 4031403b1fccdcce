"""What runs for long takes no more memory: the page under load, and a training.

``STEMS_SOAK_S`` says for how many seconds the page is used; an hour by itself.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import soundfile

from ml.cli.main import main
from ml.training.run_folder import read_record

pytestmark = [pytest.mark.faults, pytest.mark.soak, pytest.mark.service]
ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("STEMS_SOAK_S", "3600"))
WARM = 80
"""Uploads after which the server keeps as many mixes as it ever does (64)."""
MOST_GROWTH_MB, MOST_MORE_FILES = 50, 5
"""Over the whole time after the first uploads, by the slope of a straight line."""
LISTENERS, QUERIES, BURSTS = 50, 20, 5
STEPS, EVERY = 2000, 200
TIMEOUT_S = 300
"""Only bounds a hang."""


def wav(seed: int, seconds: float = 3.0) -> bytes:
    """Noise that nobody sent before."""
    noise = 0.2 * np.random.default_rng(seed).standard_normal((round(seconds * 44_100), 2))
    file = io.BytesIO()
    soundfile.write(file, noise, 44_100, format="WAV", subtype="PCM_16")
    return file.getvalue()


def used(process: psutil.Process) -> tuple[float, int]:
    """Memory in MB and open files of a process and its children."""
    megabytes, files = 0.0, 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            megabytes += one.memory_info().rss / 1e6
            files += one.num_fds()
    return megabytes, files


def growth(values: Sequence[float]) -> float:
    """By how much a straight line through them rises from the first to the last."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) * (len(values) - 1)


@pytest.fixture
def page(home: Path) -> Iterator[tuple[psutil.Process, httpx.Client]]:
    """A server of a small home in a process of its own, and a client of it."""
    stems = [sys.executable, "-m", "ml.cli.main", "--home", str(home)]
    words = ["embed", "demo", "--models", "film", "--precision", "fp32"]
    assert main(["--home", str(home), *words]) == 0
    stems += ["serve", "--model", "film", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(stems, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, "")
        url = next(found[0] for line in lines if (found := re.search(r"http://[\d.:]+/", line)))
        limits = httpx.Limits(max_connections=LISTENERS)
        with httpx.Client(base_url=url, timeout=TIMEOUT_S, limits=limits) as client:
            yield psutil.Process(server.pid), client
        server.terminate()


def sent(client: httpx.Client, number: int) -> str:
    """The id of one more mix."""
    answer = client.post("/api/mixes", content=wav(number))
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def test_many_ask_at_once(page: tuple[psutil.Process, httpx.Client]):
    """All are answered or told to come again; how soon is said, with what else the machine did."""
    mix = sent(page[1], 0)
    load = os.getloadavg()[0]
    p95_s = [round(burst(page[1], mix), 2) for _ in range(BURSTS)]
    say(
        f"{LISTENERS} listeners, then {QUERIES} queries at once: p95 of a query in s {p95_s}; load "
        f"average {load:.1f} on {os.cpu_count()} cores before, nice {os.nice(0)}"
    )


def test_the_page_under_load_keeps_its_memory_and_files(page: tuple[psutil.Process, httpx.Client]):
    process, client = page
    mixes = [sent(client, number) for number in range(WARM)]
    measured, begun_s = [], time.monotonic()
    while time.monotonic() < begun_s + SECONDS:
        mixes.append(mix := sent(client, WARM + len(measured)))
        assert len(client.get(f"/api/mixes/{mix}/audio").content) > 500_000
        assert client.get("/api/search", params={"mix": mix, "instrument": "piano"}).is_success
        measured.append(used(process))
    megabytes, files = zip(*measured, strict=True)
    say(
        f"{len(measured)} uploads, heard and asked with, in {SECONDS:.0f} s: {megabytes[0]:.0f} to "
        f"{megabytes[-1]:.0f} MB, by the line {growth(megabytes):+.1f}; files {files[0]} to "
        f"{files[-1]}, by the line {growth(files):+.2f}"
    )
    assert growth(megabytes) < MOST_GROWTH_MB
    assert growth(files) < MOST_MORE_FILES
    burst(client, mixes[-1])
    client.close()
    for _ in range(50):  # connections are closed when the loop comes to it
        if used(process)[1] < files[-1] + MOST_MORE_FILES:
            break
        time.sleep(0.2)
    memory, opened = used(process)
    say(f"after one more burst: {memory:.0f} MB, {opened} files")
    assert opened < files[-1] + MOST_MORE_FILES
    assert memory < megabytes[-1] + 2 * MOST_GROWTH_MB


def burst(client: httpx.Client, mix: str) -> float:
    """Listen and ask, many at once: who is not answered is told to come again; p95 of a query."""
    took_s = []

    def listen(_: int) -> int:
        heard = client.get(f"/api/mixes/{mix}/audio")
        assert heard.status_code != 200 or len(heard.content) > 500_000
        return heard.status_code

    def query(number: int) -> int:
        asked = {"mix": mix, "instrument": ("drum kit", "bass guitar", "piano")[number % 3]}
        begun_s = time.monotonic()
        status = client.get("/api/search", params=asked).status_code
        took_s.append(time.monotonic() - begun_s)
        return status

    for count, ask in ((LISTENERS, listen), (QUERIES, query)):
        with ThreadPoolExecutor(count) as pool:
            statuses = Counter(pool.map(ask, range(count)))
        assert 200 in statuses
        assert set(statuses) <= {200, 503}, statuses
    return float(np.quantile(took_s, 0.95))


def test_a_training_keeps_its_memory(home: Path, small: dict[str, object]):
    fields = [f"{name}={value}" for name, value in {**small, "steps": STEPS}.items()]
    words = ["train", "--preset", "contrastive", "--corpora", "demo", "--set", *fields]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ml.cli.main", "--home", str(home), *words]
    before = set(home.glob("runs/*"))
    megabytes: dict[int, float] = {}
    with subprocess.Popen(command, env=environment) as process:
        measured = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(0.1)
            for run in set(home.glob("runs/contrastive-*")) - before:
                lines = read_record(run / "metrics.jsonl")
                if lines and (reached := lines[-1]["step"] // EVERY) not in megabytes:
                    megabytes[reached] = used(measured)[0]
        assert process.returncode == 0
    steady = [memory for reached, memory in sorted(megabytes.items()) if 2 <= reached < 10]
    say(f"training: MB every {EVERY} steps: {[round(x) for _, x in sorted(megabytes.items())]}")
    assert len(steady) > 4
    assert growth(steady) < MOST_GROWTH_MB


def say(text: str) -> None:
    """For the table of reliability."""
    print(text)  # noqa: T201
