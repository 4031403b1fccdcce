"""Scores as metrics of the MLflow runs that trained the models.

Metrics are called ``<evaluation>/<corpus>/<conditioning>/<metric>``, such as
``retrieval/demo/fine/recall_at_1``: MLflow allows no "@" in names. Figures of the encoder's gallery
(``predecessor`` protocol) have ``encoder-gallery/`` before the metric. The files of scores are the
record, MLflow gets a copy; a tracking server that is down costs a warning.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml.artifacts import Artifact, ArtifactError, fingerprint, read_json, write_json
from ml.mlflow_store import local_database, mlflow_client
from ml.scores.files import BY_ENCODER, PAIRED

SENT_NAME = "mlflow.json"
"""Beside the scores: what was sent where, so that nothing is sent twice."""
_log = logging.getLogger(__name__)


def tracking_runs(models: Iterable[Any]) -> dict[str, str]:
    """Map model names to the MLflow runs that trained them, where a manifest names one.

    Args:
        models: anything with a ``name`` and, where it was trained, a ``manifest``.
    """
    manifests = {model.name: getattr(model, "manifest", {}) for model in models}
    runs = {name: manifest.get("mlflow_run_id") for name, manifest in manifests.items()}
    return {name: run_id for name, run_id in runs.items() if run_id}


def log_scores(
    artifact: Artifact, rows: Sequence[Mapping[str, Any]], runs: Mapping[str, str], uri: str
) -> list[str]:
    """Send the scores of an evaluation to the runs of its models.

    A figure that a run has already is not sent again.

    Args:
        artifact: what ``evaluate_retrieval`` returned.
        rows: its rows (``ml.scores.files.read_scores``).
        runs: model name → run id.
        uri: of the tracking store.

    Returns:
        The models whose runs now hold their scores; empty where the store cannot be reached.
    """
    state = fingerprint({"scores": artifact.fingerprint, "runs": runs, "uri": uri})
    metrics = {run_id: _metrics(name, rows) for name, run_id in runs.items()}
    if not any(metrics.values()) or _sent(artifact.path) == state:
        return list(runs)
    if (database := local_database(uri)) is not None and not database.is_file():
        _log.warning("there is no MLflow store at %s; scores are in %s only", uri, artifact.path)
        return []
    done = [name for name, run_id in runs.items() if _log_run(uri, run_id, name, metrics[run_id])]
    if done == list(runs):
        write_json(artifact.path / SENT_NAME, {"sent": state})
    return done


def _metrics(model: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Name the figures of a model as MLflow metrics."""
    folders = {model: "", model + BY_ENCODER: "encoder-gallery/"}
    return {
        f"{row['evaluation']}/{row['corpus']}/{row['conditioning']}/"
        f"{folders[row['model']]}{row['metric'].replace('@', '_at_')}": row["value"]
        for row in rows
        if row["model"] in folders and row["value"] is not None and row["evaluation"] != PAIRED
    }


def _sent(folder: Path) -> str | None:
    try:
        return read_json(folder / SENT_NAME)["sent"]
    except (ArtifactError, KeyError):
        return None


def _log_run(uri: str, run_id: str, model: str, metrics: Mapping[str, float]) -> bool:
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    try:
        client = mlflow_client(uri)
        known = client.get_run(run_id).data.metrics
        now = int(time.time() * 1000)
        new = [Metric(k, value, now, 0) for k, value in metrics.items() if known.get(k) != value]
        if new:
            client.log_batch(run_id, metrics=new)
    except (MlflowException, OSError) as error:
        _log.warning("the scores of %s did not reach its MLflow run %s: %s", model, run_id, error)
        return False
    return True
