"""Tracking with a real MLflow: the record is complete there, and no step twice after a resume."""

import json
import socket
from pathlib import Path

import pytest

from ml.artifacts import ArtifactError, DataLayout, read_json
from ml.mlflow_store import mlflow_client
from ml.training import tracking
from ml.training.config import LoopConfig
from ml.training.models import read_models
from ml.training.run_folder import MetricsRecord, read_record
from ml.training.runs import train_preset
from ml.training.tracking import MlflowTracker, sync_run


def tracker_of(uri):
    return lambda folder, name: MlflowTracker(
        run_folder=folder, uri=uri, experiment="stems", run_name=name
    )


def test_a_killed_and_resumed_run_is_one_run_with_each_step_once(home, small, monkeypatch):
    layout, uri = DataLayout(home=home), f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"

    def run():
        return train_preset(
            "contrastive",
            layout=layout,
            corpora=["demo"],
            overrides=small,
            seed=3,
            loop=LoopConfig(log_every=1, checkpoint_every=2),
            tracker=tracker_of(uri),
            tags={"dagster_run_id": "abc"},
        )

    import ml.training.loop as loop_module

    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    real_step = loop_module.train_step

    def dying_step(state, *args):
        if state.step == 3:
            raise ConnectionResetError
        return real_step(state, *args)

    monkeypatch.setattr(loop_module, "train_step", dying_step)
    with pytest.raises(ConnectionResetError):
        run()
    monkeypatch.setattr(loop_module, "train_step", real_step)
    artifact = run()

    client = mlflow_client(uri)
    experiment = client.get_experiment_by_name("stems")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert len(found) == 1
    info = found[0]
    assert info.info.run_id == read_json(artifact.path / "manifest.json")["mlflow_run_id"]
    assert info.info.status == "FINISHED"
    assert info.data.tags["phase"] == "contrastive"
    assert info.data.tags["dagster_run_id"] == "abc"
    assert info.data.params["optimizer.learning_rate"] == "0.0006"
    tags, manifest = info.data.tags, read_json(artifact.path / "manifest.json")
    assert tags["shards"] == " ".join(manifest["shards"])
    assert tags["label_encoder"].startswith("minilm ")
    assert tags["git_revision"]
    assert {
        *("speed/model_flop_per_s", "memory/process_peak_bytes"),
        *("system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"),
    } <= set(info.data.metrics)
    assert_artifacts(client, info.info.run_id, artifact.path)
    assert_dataset(info, layout, manifest["shards"])
    history = client.get_metric_history(info.info.run_id, "contrastive/loss")
    recorded = [
        line
        for line in read_record(artifact.path.parent / "metrics.jsonl")
        if "contrastive/loss" in line["metrics"]
    ]
    assert [m.step for m in history] == [line["step"] for line in recorded] == [1, 2, 3, 4, 5, 6]
    assert [m.value for m in history] == [line["metrics"]["contrastive/loss"] for line in recorded]
    (artifact.path.parent / "mlflow.json").unlink()  # as where the folder was deleted
    sync_run(artifact.path.parent, uri=uri, experiment="stems")
    assert client.get_metric_history(info.info.run_id, "contrastive/loss") == history


def assert_dataset(run, layout, fingerprints, place=None):
    """The tracking run names the shards that it was trained on, once, and where they lie."""
    (found,) = run.inputs.dataset_inputs
    path = layout.shards("demo") / "manifest.json"
    assert (found.dataset.name, found.dataset.digest) == ("demo", fingerprints[0][:36])
    assert json.loads(found.dataset.source) == {"uri": place or str(path)}
    profile, summary = json.loads(found.dataset.profile), read_json(path)["summary"]
    assert profile["segments"] == summary["train_segments"] < summary["segments"]
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]


def test_a_run_that_was_killed_before_it_was_described_is_described_later(home, monkeypatch):
    layout, uri = DataLayout(home=home), f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"
    run = read_models(layout)["film"].parent

    def broken(*_):
        raise ConnectionResetError

    monkeypatch.setattr(tracking, "send_datasets", broken)
    with pytest.raises(ArtifactError, match="did not take the record"):
        sync_run(run, uri=uri, experiment="stems")
    monkeypatch.undo()
    run_id = sync_run(run, uri=uri, experiment="stems")[0]
    found = mlflow_client(uri).get_run(run_id)
    assert found.data.params["preset"] == "film"
    described = read_json(run / "run.json")
    place = described["datasets"][0]["manifest"]  # in the home that this one is a copy of
    assert_dataset(found, layout, described["identity"]["shards"], place)


def assert_artifacts(client, run_id, model):
    assert {x.path for x in client.list_artifacts(run_id)} == {
        *("checkpoint", "config.json", "loss.png")
    }
    files = {path.name for path in model.iterdir()}
    found = {
        x.path.removeprefix("checkpoint/") for x in client.list_artifacts(run_id, "checkpoint")
    }
    assert found == files >= {"config.json", "manifest.json", "model.safetensors"}
    copy = Path(client.download_artifacts(run_id, "checkpoint"))
    for name in files:
        assert (copy / name).read_bytes() == (model / name).read_bytes()


def test_a_resumed_run_takes_the_tags_of_who_resumed_it(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow_client(uri)  # making the store takes longer than a tracker that ends may
    (tmp_path / "run").mkdir()
    for asked_by in ("one", "two"):
        tracker = tracker_of(uri)(tmp_path / "run", "run")
        tracker.start({"steps": 1}, {"training_id": "run", "dagster_run_id": asked_by})
        run_id = tracker.finish("KILLED")
    run = client.get_run(run_id)
    assert run.data.tags["dagster_run_id"] == "two"
    assert run.info.status == "KILLED"


def test_artifacts_that_a_server_missed_are_sent_later(home):
    run = read_models(DataLayout(home=home))["film"].parent
    uri = f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"
    tracker = tracker_of(uri)(run, run.name)
    tracker.start({"steps": 4}, {"training_id": run.name})
    run_id = tracker.finish("RUNNING")  # and the process is killed before its model is sent
    client = mlflow_client(uri)
    assert client.get_run(run_id).info.status == "RUNNING"
    assert not client.list_artifacts(run_id)
    for _ in range(2):
        assert sync_run(run, uri=uri, experiment="stems")[0] == run_id
        assert client.get_run(run_id).info.status == "FINISHED"
        assert_artifacts(client, run_id, run / "model")


def test_a_server_that_is_down_does_not_stop_training(home, small):
    artifact = train_preset(
        "contrastive",
        layout=DataLayout(home=home),
        corpora=["demo"],
        overrides=small,
        seed=4,
        tracker=tracker_of("http://127.0.0.1:9"),
    )
    assert read_json(artifact.path / "manifest.json")["mlflow_run_id"] is None


def test_a_half_written_line_is_left_out(tmp_path):
    record = MetricsRecord(tmp_path, from_step=0)
    record.append(1, {"loss": 1.0})
    record.append(2, {"loss": 2.0})
    with record.path.open("a") as file:
        file.write('{"step": 3, "ti')
    assert [line["step"] for line in read_record(record.path)] == [1, 2]
    again = MetricsRecord(tmp_path, from_step=1)
    assert [line["step"] for line in read_record(again.path)] == [1]


def test_a_stopped_run_does_not_wait_for_a_server_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(tracking, "_STOPPED_JOIN_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        tracker = MlflowTracker(
            run_folder=tmp_path,
            uri=f"http://127.0.0.1:{silent.getsockname()[1]}",
            experiment="stems",
            run_name="run",
        )
        tracker.start({}, {"training_id": "run"})
        assert tracker.finish("KILLED") is None
        assert tracker._thread.is_alive()  # it still waits, the training does not
    assert "no end of sending in time" in caplog.text
    assert "stems train sync run" in caplog.text
