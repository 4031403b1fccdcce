"""A home that was moved: nothing is made again, what was found is found, MLflow has its files."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ml import mlflow_store
from ml.artifacts import Artifact, ArtifactError
from ml.cli.main import main
from ml.corpora.corpus import open_corpus
from ml.corpora.label_embeddings import build_label_embeddings, read_label_vectors
from ml.corpora.table import build_corpus_tracks
from ml.labels.encoders import build_label_encoder
from ml.mlflow_store import find_or_make_experiment, mend_moved_store, mlflow_client
from ml.models.stem_jepa import load_model
from ml.retrieval.champion.promotion import promote
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.evaluation.evaluate import evaluate_retrieval
from ml.retrieval.tables.publish import publish_corpus
from ml.settings import load_settings
from ml.shards.build import ShardConfig, build_shards
from ml.training.models import read_models
from ml.training.runs import train_preset
from ml.training.tracking import mlflow_tracker

CONFIG = """
corpora: {demo: {kind: demo, root: corpora/demo}}
training: {presets: [film]}
"""


def make_everything(home: Path, small: dict[str, Any]) -> dict[str, Artifact]:
    """Every stage from the table to the champion."""
    settings = load_settings(home)
    layout, corpus = settings.layout, open_corpus("demo", home / "corpora" / "demo")
    made: dict[str, Artifact] = {
        "table": build_corpus_tracks("demo", corpus, layout),
        "labels": build_label_embeddings("demo", layout, build_label_encoder("minilm")),
        "shards": build_shards("demo", layout, ShardConfig(payload="pcm16")),
        "model": train_preset(
            "film",
            layout=layout,
            corpora=["demo"],
            overrides=small,
            start="contrastive",
            tracker=mlflow_tracker(settings),
        ),
    }
    model = load_model(read_models(layout)["film"])
    (made["embeddings"],) = embed_corpus(
        "demo", [model], layout, read_label_vectors(layout, "demo")
    )
    made["publication"] = publish_corpus(layout, model.model_id, "demo")
    made["scores"] = evaluate_retrieval("demo", layout, {"film": model.model_id}, resamples=100)
    assert promote(settings).champion is not None
    return made


def found(home: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What ``stems query`` finds for a stem of the home."""
    mix = next((home / "corpora" / "demo").rglob("*.wav"))
    arguments = ["--home", str(home), "query", str(mix), "--instrument", "bass", "--json"]
    assert main(arguments) == 0
    return json.loads(capsys.readouterr().out)


def test_a_moved_home_is_the_same_home(
    home: Path, tmp_path: Path, small_jepa: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    (home / "config.yaml").write_text(CONFIG)
    made = make_everything(home, small_jepa)
    before = found(home, capsys)
    moved = home.rename(tmp_path / "elsewhere")
    assert main(["--home", str(moved), "migrate"]) == 0
    assert f"artifacts of 1 runs are looked for here, no more in {home.as_uri()}" in (
        capsys.readouterr().out
    )
    again = make_everything(moved, small_jepa)
    assert {x: a.fingerprint for x, a in again.items()} == {
        x: a.fingerprint for x, a in made.items()
    }
    assert again.pop("table").path == moved / "tracks" / "demo"  # written anew: it names the files
    assert all(artifact.reused for artifact in again.values())
    assert again["publication"].summary["uri"].startswith(str(moved))
    after = found(moved, capsys)
    assert [x["stem_id"] for x in after] == [x["stem_id"] for x in before]
    assert [x["score"] for x in after] == [x["score"] for x in before]
    client = mlflow_client(load_settings(moved).tracking_uri)
    version = client.get_model_version_by_alias("stem-jepa", "champion")
    assert version.run_id is not None
    assert moved.as_uri() in client.get_run(version.run_id).info.artifact_uri
    copy = Path(client.download_artifacts(version.run_id, "checkpoint"))
    assert (copy / "model.safetensors").is_file()
    assert main(["--home", str(moved), "migrate"]) == 0
    assert "mlflow" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no database at all, but text" * 100])
def test_what_is_no_database_of_mlflow_is_named(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "mlflow" / "mlflow.db"
    path.parent.mkdir()
    path.write_bytes(content)
    assert main(["--home", str(tmp_path), "migrate"]) == 2
    assert f"{path} cannot be changed (" in capsys.readouterr().err
    assert path.read_bytes() == content


def test_a_database_in_use_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    client = mlflow_client(load_settings(tmp_path).tracking_uri)
    find_or_make_experiment(client, "stems")
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "mlflow", moved / "mlflow")
    layout = load_settings(moved).layout
    monkeypatch.setattr(mlflow_store, "WAITS_S", 0.1)
    with (
        closing(sqlite3.connect(moved / "mlflow" / "mlflow.db")) as writer,
        pytest.raises(ArtifactError, match=r"database is locked.*stop it"),
    ):
        writer.execute("BEGIN EXCLUSIVE")
        mend_moved_store(layout)
    assert mend_moved_store(layout) == {(tmp_path / "mlflow" / "artifacts").as_uri(): 0}
    assert mend_moved_store(layout) == {}
