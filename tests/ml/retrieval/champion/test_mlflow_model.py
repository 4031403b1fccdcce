"""Whoever knows the champion as ``models:/stem-jepa@champion`` gets the vectors that we compute."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from ml.artifacts import read_json, write_json
from ml.mlflow_store import mlflow_client
from ml.models.stem_jepa import StemJepa, load_model
from ml.retrieval.champion.champion import mirror_champion, write_champion
from ml.settings import Settings, load_settings

MODEL = "models:/stem-jepa@champion"


@pytest.fixture
def home(
    untrained_starter: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """A home whose champion was trained in another; MLflow asks its store by default."""
    runs = shutil.copytree(untrained_starter / "runs", tmp_path / "home" / "runs")
    settings = load_settings(tmp_path / "home")
    settings.layout.mlflow.mkdir()
    shutil.copy(empty_store, settings.layout.mlflow / "mlflow.db")
    manifest = runs / "random" / "model" / "manifest.json"
    write_json(manifest, read_json(manifest) | {"mlflow_run_id": "0" * 32})
    write_champion(settings.layout, read_json(manifest)["model_id"], manifest.parent)
    assert mirror_champion(settings.layout, settings.tracking_uri, "stem-jepa") == "1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.tracking_uri)
    return settings


@pytest.fixture
def champion(home: Settings) -> StemJepa:
    return load_model(home.layout.runs / "random" / "model")


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).normal(scale=0.1, size=30_000)
    soundfile.write(tmp_path / "mix.wav", noise, 12_000, subtype="FLOAT")
    return tmp_path / "mix.wav"


def test_the_champion_is_a_model_of_mlflow(home: Settings, champion: StemJepa, wav: Path):
    from mlflow import pyfunc

    loaded = pyfunc.load_model(MODEL)
    samples, rate_hz = soundfile.read(wav)
    rows: list[dict[str, Any]] = [
        {"path": str(wav), "instrument": "bass guitar"},
        {"path": str(wav)},
    ]
    expected = champion.predict(wav, "bass guitar"), champion.embed_stem(wav)
    for answer in (
        loaded.predict(pd.DataFrame(rows)),
        [loaded.predict(pd.DataFrame([row]))[0] for row in rows],
    ):
        np.testing.assert_array_equal(answer, np.stack([row.numpy() for row in expected]))
    heard = loaded.predict(pd.DataFrame([{"samples": samples, "rate_hz": rate_hz}]))
    np.testing.assert_allclose(heard[0], expected[1].numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="expected path, or samples and rate_hz"):
        loaded.predict(pd.DataFrame([{"samples": samples}]))
    schema = loaded.metadata.get_input_schema()
    assert schema is not None
    assert schema.input_names() == ["path", "samples", "rate_hz", "instrument"]
    example = loaded.predict(loaded.input_example)
    assert example.shape == (1, champion.dim)
    (kept,) = home.layout.mlflow.rglob("*.safetensors")  # once
    assert (kept.parent / "MLmodel").is_file()
    client = mlflow_client(home.tracking_uri)
    assert "instrument" in client.get_registered_model("stem-jepa").description
    assert "stems query" in client.get_model_version("stem-jepa", "1").description


@pytest.fixture
def served(home: Settings) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["models", "serve", "-m", MODEL, "--env-manager", "local", "--port", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it asks for uvicorn
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words],
        env={**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"},
        cwd=home.home,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None
            try:
                urllib.request.urlopen(f"{url}/ping", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


@pytest.mark.slow
@pytest.mark.service
def test_it_is_served(served: str, champion: StemJepa, wav: Path):
    def ask(row: dict[str, Any]) -> Any:
        body = json.dumps({"dataframe_records": [row]}).encode()
        request = urllib.request.Request(
            f"{served}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["predictions"][0]

    samples, rate_hz = soundfile.read(wav)
    mix = {"samples": samples.tolist(), "rate_hz": rate_hz, "instrument": "bass guitar"}
    np.testing.assert_allclose(
        ask(mix), champion.predict((samples, rate_hz), "bass guitar"), atol=1e-5
    )
    np.testing.assert_allclose(ask({"path": str(wav)}), champion.embed_stem(wav), atol=1e-5)
    for wrong in ({"instrument": "bass"}, {"path": str(wav.parent / "gone.wav")}):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(wrong)
