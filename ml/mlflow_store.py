"""MLflow's client and experiments, for whoever writes there: training, scores, promotion."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from ml.artifacts import put
from ml.locks import lock

PAGES_URL = "http://127.0.0.1:5000"
"""Where ``make mlflow`` serves the project's own store."""


def pages_url(uri: str) -> str:
    """Give the address of MLflow's pages for a store: its server, or ``PAGES_URL``."""
    return uri.rstrip("/") if uri.startswith(("http://", "https://")) else PAGES_URL


def mlflow_client(uri: str) -> Any:
    """Make an MLflow client that gives up on a dead server in seconds, not minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    if uri.startswith("sqlite:///") and not (path := Path(uri.removeprefix("sqlite:///"))).exists():
        _make_store(path)
    return MlflowClient(tracking_uri=uri)


def _make_store(path: Path) -> None:
    """Make an empty database aside and rename it.

    MLflow makes its tables one by one: a process that is killed meanwhile leaves a database that no
    other can open, and so may two at once.
    """
    from mlflow import MlflowClient

    with lock(path.with_name(f".{path.name}.lock"), waits=True):
        if path.exists():
            return
        for left in path.parent.glob(f".{path.name}.making-*"):  # by one that was killed
            left.unlink()
        # A new name each time: MLflow remembers a database it has made by its address.
        aside = path.with_name(f".{path.name}.making-{uuid4().hex}")
        MlflowClient(tracking_uri=f"sqlite:///{aside}").search_experiments(max_results=1)
        put(aside, path)


def find_or_make_experiment(client: Any, name: str) -> str:
    """Get an experiment's id, made if need be; a local one keeps artifacts by its database."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return experiment.experiment_id
    uri = client.tracking_uri
    location = None
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).parent / "artifacts").resolve().as_uri()
    return client.create_experiment(name, artifact_location=location)
