"""What a tracking run keeps of a finished run beside its numbers: checkpoint, config, loss plot."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import MANIFEST_NAME, read_json
from ml.training.record import RECORD_NAME, read_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHECKPOINT = "checkpoint"
"""Folder of the model among the artifacts; complete when its manifest is there."""


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
    """The loss over the steps of a run, on training and valid split.

    Args:
        run_folder: with ``metrics.jsonl``.
        name: of the model.
        phase: ``contrastive`` or ``jepa``.

    Returns:
        None without ``matplotlib`` (a bare GPU box), or without finite losses.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from ml.reports.figures import Curve, loss_curves

    curves = []
    lines = read_record(run_folder / RECORD_NAME)
    for metric in (f"{phase}/loss", f"{phase}/valid_loss"):
        points = [(x["step"], x["metrics"][metric]) for x in lines if metric in x["metrics"]]
        found = np.array([point for point in points if np.isfinite(point[1])])
        if len(found):
            steps, values = found.T
            is_valid = metric.endswith("valid_loss")
            curves.append(Curve(model=name, steps=steps, values=values, is_valid=is_valid))
    return loss_curves(curves, label="loss") if curves else None
