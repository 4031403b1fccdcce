"""MLflow's client and experiments, for whoever writes there: training, scores, promotion."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from ml.artifacts import write_aside
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

    if (path := local_database(uri)) is not None and not path.exists():
        _make_store(path)
    return MlflowClient(tracking_uri=uri)


def local_database(uri: str) -> Path | None:
    """Name the file of a store that is one; None: a server, or another database."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _make_store(path: Path) -> None:
    """Make an empty database aside and rename it.

    MLflow makes its tables one by one: a process that is killed meanwhile leaves a database that no
    other can open, and so may two at once.
    """
    from mlflow import MlflowClient

    with lock(path.with_name(f".{path.name}.lock"), waits=True):
        if path.exists():
            return
        for left in path.parent.glob(f".{path.name}.*.tmp"):  # by one that was killed
            left.unlink()
        with write_aside(path) as aside:
            MlflowClient(tracking_uri=f"sqlite:///{aside}").search_experiments(max_results=1)


def find_or_make_experiment(client: Any, name: str) -> str:
    """Get an experiment's id, made if need be; a local one keeps artifacts by its database."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return experiment.experiment_id
    database = local_database(client.tracking_uri)
    location = None if database is None else (database.parent / "artifacts").resolve().as_uri()
    return client.create_experiment(name, artifact_location=location)
