"""The instrument analysis as metrics and figures of the MLflow runs that trained the models."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ml.artifacts import MANIFEST_NAME, Artifact, DataLayout, read_json
from ml.reports.instruments import confusion_matrix, share_bars
from ml.retrieval.evaluation.instruments import read_confusion, read_instruments
from ml.retrieval.evaluation.presence import checkpoint_manifests
from ml.scores.files import read_artifact_scores
from ml.scores.tracking import log_scores

_DPI = 130
_FOLDER = "instruments"
_log = logging.getLogger(__name__)


def track_instruments(layout: DataLayout, corpus: str, artifact: Artifact, uri: str) -> list[str]:
    """Send the analysis of a corpus to the runs of its models.

    Metrics go as ``ml.scores.tracking`` says; figures are called
    ``instruments/<corpus>-<conditioning>-<what>-<version>.png``, so that none is sent twice.

    Args:
        layout: where checkpoints and scores lie.
        corpus: its name.
        artifact: what ``evaluate_instruments`` returned.
        uri: of the tracking store; when it cannot be reached, a warning is all that happens.

    Returns:
        The models whose runs now hold it.
    """
    rows = read_artifact_scores(artifact)
    runs = _runs(layout, artifact)
    done = log_scores(artifact, rows, runs, uri)
    figures = _figures(layout, corpus, artifact.fingerprint[:8])
    return [name for name in done if _send(uri, runs[name], figures.get(name, {}))]


def _runs(layout: DataLayout, artifact: Artifact) -> dict[str, str]:
    """Map model → MLflow run, for the models of the analysis that have one."""
    known = {m["model_id"]: m.get("mlflow_run_id") for m in checkpoint_manifests(layout)}
    models = dict(read_json(artifact.path / MANIFEST_NAME)["identity"]["models"])
    runs = {name: known.get(model_id) for name, model_id in models.items()}
    return {name: run_id for name, run_id in runs.items() if run_id}


def _figures(layout: DataLayout, corpus: str, version: str) -> dict[str, dict[str, Any]]:
    """Draw model → file name → figure."""
    figures: dict[str, dict[str, Any]] = {}
    drawn = (
        ("shares", read_instruments(layout, corpus), share_bars),
        ("confusion", read_confusion(layout, corpus), confusion_matrix),
    )
    for what, rows, draw in drawn:
        for model, conditioning in dict.fromkeys((r["model"], r["conditioning"]) for r in rows):
            chosen = [r for r in rows if (r["model"], r["conditioning"]) == (model, conditioning)]
            name = f"{_FOLDER}/{corpus}-{conditioning}-{what}-{version}.png"
            figures.setdefault(model, {})[name] = draw(chosen)
    return figures


def _send(uri: str, run_id: str, figures: Mapping[str, Any]) -> bool:
    from mlflow.exceptions import MlflowException

    from ml.mlflow_store import mlflow_client

    try:
        client = mlflow_client(uri)
        known = {file.path for file in client.list_artifacts(run_id, _FOLDER)}
        for name, figure in figures.items():
            if name not in known:
                save = {"dpi": _DPI, "facecolor": "white"}
                client.log_figure(run_id, figure, name, save_kwargs=save)
    except (MlflowException, OSError) as error:
        _log.warning("figures did not reach MLflow run %s: %s", run_id, error)
        return False
    return True
