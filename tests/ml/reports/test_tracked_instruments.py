from __future__ import annotations

import pytest

from ml import kinds
from ml.artifacts import DataLayout, find_current, read_json, write_json
from ml.mlflow_store import find_or_make_experiment, mlflow_client
from ml.reports.instruments import track_instruments


def test_runs_get_metrics_and_figures_once(
    filled: DataLayout, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    folder = filled.scores("instruments", "tones")
    manifest = read_json(folder / "manifest.json")
    artifact = find_current(folder, manifest["identity"], kinds.SCORES)
    assert artifact is not None
    uri = f"sqlite:///{filled.mlflow / 'mlflow.db'}"
    assert track_instruments(filled, "tones", artifact, uri) == []  # there is no store
    assert "no MLflow store" in caplog.text
    client = mlflow_client(uri)
    run_id = client.create_run(find_or_make_experiment(client, "stems")).info.run_id
    for path in filled.runs.glob("*/*/manifest.json"):
        name = read_json(path)["name"]
        write_json(path, read_json(path) | {"mlflow_run_id": run_id if name == "film" else None})
    assert track_instruments(filled, "tones", artifact, uri) == ["film"]
    metrics = client.get_run(run_id).data.metrics
    assert metrics["instruments/tones/fine/recall_at_1/zero-shot"] >= 0
    names = [file.path for file in client.list_artifacts(run_id, "instruments")]
    version = artifact.fingerprint[:8]
    assert sorted(names) == [
        f"instruments/tones-fine-confusion-{version}.png",
        f"instruments/tones-fine-shares-{version}.png",
    ]
    monkeypatch.setattr(type(client), "log_figure", None)  # a second time nothing is sent
    assert track_instruments(filled, "tones", artifact, uri) == ["film"]
