"""What a tracking run keeps beside its numbers: checkpoint, config, loss plot, and its datasets.

The shards that a run is trained on are datasets of its tracking run
(https://mlflow.org/docs/latest/ml/dataset/).
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import MANIFEST_NAME, read_json
from ml.shards.folders import ShardFolder
from ml.training.run_folder import RECORD_NAME, RUN_NAME, read_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHECKPOINT = "checkpoint"
"""Folder of the model among the artifacts; complete when its manifest is there."""
_DIGEST_LENGTH = 36
"""More MLflow does not take."""
_SPLIT = "train_"
"""Before the names of counts of the split that is trained on, in a summary of shards."""


def send_artifacts(client: Any, run_id: str, run_folder: Path) -> str | None:
    """Upload what a finished run has made; nothing while there is no model.

    Args:
        client: of MLflow.
        run_id: the tracking run.
        run_folder: with ``model`` and ``metrics.jsonl``.

    Returns:
        The id of the model that is there now.

    Raises:
        MlflowException: the server did not take it.
    """
    model = run_folder / "model"
    if not (model / MANIFEST_NAME).is_file():
        return None
    manifest = read_json(model / MANIFEST_NAME)
    client.log_artifact(run_id, str(model / "config.json"))
    if (figure := loss_plot(run_folder, manifest["name"], manifest["phase"])) is not None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "loss.png"
            figure.savefig(path, dpi=200)
            client.log_artifact(run_id, str(path))
    files = [path for path in sorted(model.iterdir()) if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == MANIFEST_NAME):  # last, as on disk
        client.log_artifact(run_id, str(path), CHECKPOINT)
    return manifest["model_id"]


def loss_plot(run_folder: Path, name: str, phase: str) -> Figure | None:
    """Plot the loss over the steps of a run, on training and valid split.

    Args:
        run_folder: with ``metrics.jsonl``.
        name: of the model.
        phase: ``contrastive`` or ``jepa``.

    Returns:
        None without ``matplotlib`` (a bare GPU box), or without finite losses.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from ml.figures import Curve, loss_curves

    curves = []
    lines = read_record(run_folder / RECORD_NAME)
    for metric in (f"{phase}/loss", f"{phase}/valid_loss"):
        points = [(x["step"], x["metrics"][metric]) for x in lines if metric in x["metrics"]]
        finite = np.array([point for point in points if np.isfinite(point[1])])
        if len(finite):
            steps, values = finite.T
            is_valid = metric.endswith("valid_loss")
            curves.append(Curve(model=name, steps=steps, values=values, is_valid=is_valid))
    return loss_curves(curves, label="loss") if curves else None


def describe_datasets(
    folders: Sequence[ShardFolder], fingerprints: Sequence[str]
) -> list[dict[str, Any]]:
    """Describe the shards of a run for ``run.json``.

    Args:
        folders: of shards, one a corpus.
        fingerprints: of what their training split holds.

    Returns:
        Of each corpus ``name``, ``fingerprint``, ``manifest`` (path or URL) and ``profile``: counts
        and hours of the split.
    """
    return [
        {
            "name": folder.name,
            "fingerprint": fingerprint,
            "manifest": folder.where(MANIFEST_NAME),
            "profile": {
                name.removeprefix(_SPLIT): value
                for name, value in folder.manifest()["summary"].items()
                if name.startswith(_SPLIT)
            },
        }
        for folder, fingerprint in zip(folders, fingerprints, strict=True)
    ]


def send_datasets(client: Any, run_id: str, run_folder: Path) -> None:
    """Log the datasets of a run folder; once more changes nothing.

    Args:
        client: of MLflow.
        run_id: the tracking run.
        run_folder: with ``run.json``; one that was begun before runs told of their datasets has
            none.

    Raises:
        MlflowException: the server did not take them.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    path = run_folder / RUN_NAME
    described = read_json(path).get("datasets", []) if path.is_file() else []
    inputs = [
        DatasetInput(
            Dataset(
                name=shards["name"],
                digest=shards["fingerprint"][:_DIGEST_LENGTH],
                source_type="s3" if shards["manifest"].startswith("s3://") else "local",
                source=json.dumps({"uri": shards["manifest"]}),
                profile=json.dumps(shards["profile"]),
            ),
            tags=[InputTag("mlflow.data.context", "training")],
        )
        for shards in described
    ]
    if inputs:
        client.log_inputs(run_id, inputs)
