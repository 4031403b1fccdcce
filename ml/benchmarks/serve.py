"""What a person at the page waits for: a server of its own process, asked over loopback.

The home is that of ``ml.benchmarks.query``: a model of the tiny size with random weights, a table
of random vectors, a mix of noise.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile

from ml.benchmarks.measure import Measure, seconds_of
from ml.benchmarks.query import INSTRUMENT, MIX_HZ, MIX_S, STEMS, K, make_home

SENT, AT_ONCE, ROUNDS = 7, 20, 5
_STOP_S = 30


def measure() -> Iterator[Measure]:
    """Measure what dropping a mix takes, and twenty queries at once."""
    with tempfile.TemporaryDirectory() as folder:
        settings, _ = make_home(Path(folder))
        with _server(settings.home) as url:
            yield _first_result(url)
            yield _concurrent(url)


def _first_result(url: str) -> Measure:
    """From the drop of a mix, one that the server has not met, to the ranked stems."""
    taken = []
    for seed in range(SENT):
        mix = _wav(np.random.default_rng(seed).normal(0, 0.1, (MIX_S * MIX_HZ, 2)))
        taken.append(seconds_of(lambda mix=mix: _search(url, _ask(f"{url}api/mixes", mix)["id"])))
    return Measure(
        name=f"page: first result after dropping a {MIX_S} s mix",
        value=max(taken),
        unit="s",
        asked=3.0,
        lower_is_better=True,
        note=f"the slowest of {SENT}, median {median(taken):.2f} s; {MIX_HZ} Hz stereo WAV: sent, "
        f"decoded in a new process, asked with; {STEMS} stems, k = {K}",
    )


def _concurrent(url: str) -> Measure:
    mix = _ask(f"{url}api/mixes", _wav(np.random.default_rng(0).normal(0, 0.1, MIX_S * MIX_HZ)))
    with ThreadPoolExecutor(AT_ONCE) as pool:  # an answer that is no success raises
        taken = list(
            pool.map(lambda _: seconds_of(lambda: _search(url, mix["id"])), range(ROUNDS * AT_ONCE))
        )
    return Measure(
        name=f"page: {AT_ONCE} queries at once, p95",
        value=1000 * float(np.percentile(taken, 95)),
        unit="ms",
        lower_is_better=True,
        note=f"{len(taken)} queries of {AT_ONCE} clients, none refused, each embeds the {MIX_S} s "
        f"mix anew; median {1000 * median(taken):.0f} ms",
    )


@contextlib.contextmanager
def _server(home: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "ml.cli.main", "--home", str(home), "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            if "http://" not in line:
                raise RuntimeError(f"the server did not start: {line}")
            yield next(word for word in line.split() if word.startswith("http://"))
        finally:
            server.terminate()
            try:
                server.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()


def _search(url: str, mix_id: str) -> dict[str, Any]:
    words = INSTRUMENT.replace(" ", "+")
    return _ask(f"{url}api/search?mix={mix_id}&instrument={words}&k={K}")


def _ask(url: str, body: bytes | None = None) -> dict[str, Any]:
    request = urllib.request.Request(url, data=body)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def _wav(audio: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, MIX_HZ, format="WAV", subtype="PCM_16")
    return file.getvalue()
