from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ml.retrieval.champion.promotion as promotion
from ml.artifacts import read_json
from ml.cli.main import main as stems
from ml.retrieval.champion.promotion import promote, roll_back
from ml.settings import Settings, load_settings
from ml.training.models import current_champion, read_champion

KILLED_BEFORE_THE_ALIAS = """
import os, signal, sys
from pathlib import Path
import ml.retrieval.champion.promotion as promotion
from ml.settings import load_settings
promotion.mirror_champion = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
promotion.promote(load_settings(Path(sys.argv[1])), "good")
"""


@pytest.fixture
def home(promotable: Settings) -> Settings:
    return promotable


@pytest.fixture
def client(home: Settings, empty_store: Path, write_checkpoint: Any) -> Any:
    """A client of the home's own store, with a run for each model."""
    from ml.mlflow_store import mlflow_client

    home.layout.mlflow.mkdir(parents=True)
    shutil.copy(empty_store, home.layout.mlflow / "mlflow.db")
    client = mlflow_client(home.tracking_uri)
    location = (home.layout.mlflow / "artifacts").as_uri()
    experiment = client.create_experiment("models", artifact_location=location)
    for name in ("good", "twin", "bad"):
        run = client.create_run(experiment)
        write_checkpoint(home.layout, name, mlflow_run_id=run.info.run_id)
    return client


def test_alias_follows_and_a_model_has_one_version(home: Settings, client: Any):
    for name, version in (("good", 1), ("twin", 2), ("good", 1)):
        if name == "good" and current_champion(home.layout):
            roll_back(home)
        else:
            promote(home, name)
        alias = client.get_model_version_by_alias("stem-jepa", "champion")
        assert (int(alias.version), alias.tags) == (version, {"model_id": f"id-{name}"})
        assert read_champion(home.layout).mlflow_version == str(version)
    folder = home.layout.runs / "good" / "model"
    run_id = read_json(folder / "manifest.json")["mlflow_run_id"]
    assert alias.source == f"runs:/{run_id}/checkpoint"
    kept = {Path(found.path).name for found in client.list_artifacts(run_id, "checkpoint")}
    assert kept > {"MLmodel", "input_example.json", *(path.name for path in folder.iterdir())}


def test_what_stopped_before_the_alias_is_finished_by_doing_it_again(
    home: Settings, client: Any, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(promotion, "mirror_champion", stop)
        with pytest.raises(KeyboardInterrupt):
            promote(home, "good")
    assert read_champion(home.layout).mlflow_version is None
    assert not client.search_registered_models()
    assert promote(home, "good").outcome == "champion already"
    assert client.get_model_version_by_alias("stem-jepa", "champion").tags["model_id"] == "id-good"
    assert read_champion(home.layout).mlflow_version == "1"


def test_stopped_between_version_and_alias_makes_no_second_version(
    home: Settings, client: Any, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(client), "set_registered_model_alias", stop)
        with pytest.raises(KeyboardInterrupt):
            promote(home, "good")
    promote(home, "good")
    assert len(client.search_model_versions("name = 'stem-jepa'")) == 1
    assert read_champion(home.layout).mlflow_version == "1"


@pytest.mark.faults
def test_killed_before_the_alias_is_finished_by_doing_it_again(home: Settings, client: Any):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_THE_ALIAS, str(home.home)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert read_champion(home.layout).model_id == "id-good"
    assert not client.search_registered_models()
    assert stems(["--home", str(home.home), "promote"]) == 0
    assert client.get_model_version_by_alias("stem-jepa", "champion").tags["model_id"] == "id-good"


def test_a_server_that_is_down_costs_one_warning_and_is_caught_up_with(
    home: Settings, client: Any, caplog: pytest.LogCaptureFixture
):
    with socket.socket() as deaf:  # bound, not listening: whoever connects is refused
        deaf.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        down = load_settings(home.home, {"tracking": {"uri": uri}})
        done = promote(down, "good")
    assert done.outcome == "promoted"
    assert len(caplog.records) == 1
    assert "does not know yet" in caplog.text
    assert read_champion(home.layout).mlflow_version is None
    promote(home, "good")
    assert int(client.get_model_version_by_alias("stem-jepa", "champion").version) == 1
    assert read_champion(home.layout).mlflow_version == "1"
