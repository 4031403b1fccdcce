"""Scores in MLflow, with a real store."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ml.artifacts import Artifact
from ml.mlflow_store import mlflow_client
from ml.scores.files import log_scores, tracking_runs


def row(model: str, metric: str, value: float | None, evaluation: str = "retrieval") -> dict:
    header = {"evaluation": evaluation, "corpus": "demo", "conditioning": "fine"}
    return {**header, "model": model, "metric": metric, "value": value}


ROWS = [
    row("film", "recall@1", 12.5),
    row("film", "normalized_rank_mean", 3.0),
    row("film", "right_song", None),
    row("film minus untrained", "recall@1", 9.0, "retrieval-paired"),
    row("film (encoder gallery)", "recall@1", 4.0, "retrieval-predecessor"),
    row("film", "recall@1", 9.5, "retrieval-swapped-loss"),
    row("spectrum", "recall@1", 1.0),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A tracking URI and a run in it."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    client = mlflow_client(uri)
    return uri, client.create_run(client.create_experiment("stems")).info.run_id


def artifact(folder: Path, fingerprint: str = "v1") -> Artifact:
    return Artifact(path=folder, fingerprint=fingerprint)


def test_figures_reach_the_run_once(tmp_path: Path, store: tuple[str, str]) -> None:
    uri, run_id = store
    client, runs = mlflow_client(uri), {"film": run_id}
    assert log_scores(artifact(tmp_path), ROWS, runs, uri) == ["film"]
    assert client.get_run(run_id).data.metrics == {
        "retrieval/demo/fine/recall_at_1": 12.5,
        "retrieval/demo/fine/normalized_rank_mean": 3.0,
        "retrieval-predecessor/demo/fine/encoder-gallery/recall_at_1": 4.0,
        "retrieval-swapped-loss/demo/fine/recall_at_1": 9.5,
    }
    (tmp_path / "mlflow.json").unlink()  # as after a crash: sent, not noted
    log_scores(artifact(tmp_path), ROWS, runs, uri)
    better = [row("film", "recall@1", 20.0), *ROWS[1:]]
    log_scores(artifact(tmp_path, "v2"), better, runs, uri)
    history = client.get_metric_history(run_id, "retrieval/demo/fine/recall_at_1")
    assert [metric.value for metric in history] == [12.5, 20.0]
    assert len(client.get_metric_history(run_id, "retrieval/demo/fine/normalized_rank_mean")) == 1


def test_a_store_that_is_gone_is_a_warning(
    tmp_path: Path, store: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = f"sqlite:///{tmp_path / 'none' / 'mlflow.db'}"
    assert log_scores(artifact(tmp_path), ROWS, {"film": "x"}, nowhere) == []
    assert not (tmp_path / "none").exists()
    assert log_scores(artifact(tmp_path), ROWS, {"film": "0" * 32}, store[0]) == []
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert not (tmp_path / "mlflow.json").exists()
    assert log_scores(artifact(tmp_path), ROWS, {}, nowhere) == []


def test_models_without_a_run_are_left_out() -> None:
    tracked = SimpleNamespace(name="film", manifest={"mlflow_run_id": "abc"})
    untracked = SimpleNamespace(name="untrained", manifest={"mlflow_run_id": None})
    no_checkpoint = SimpleNamespace(name="spectrum")
    assert tracking_runs([tracked, untracked, no_checkpoint]) == {"film": "abc"}
