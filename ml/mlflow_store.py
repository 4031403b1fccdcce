"""MLflow's client and experiments, for whoever writes there: training, scores, promotion.

MLflow keeps absolute addresses of artifacts and has no call that changes them; its maintainers'
advice is SQL. So whoever opens the store of a home that was moved or copied mends them first: a
copy never writes into the home that it came from.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from ml.artifacts import ArtifactError, DataLayout, write_aside
from ml.locks import lock
from ml.plain import no_database_at

PAGES_URL = "http://127.0.0.1:5000"
"""Where ``make mlflow`` serves the project's own store."""
TRAINING_VIEW = "workflowType=machine_learning"
"""Without it MLflow opens its view of language models."""
WAITS_S = 5.0
"""For who writes to the database."""
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
_FOLDER = "/mlflow/artifacts"
"""How the address ends that ``find_or_make_experiment`` gives the store of a home."""
_log = logging.getLogger(__name__)


def pages_url(uri: str) -> str:
    """Give the address of MLflow's pages for a store: its server, or ``PAGES_URL``."""
    return uri.rstrip("/") if uri.startswith(("http://", "https://")) else PAGES_URL


def charts_url(uri: str, experiment: str) -> str:
    """Give the address where the runs of an experiment, made if need be, are charted together."""
    number = find_or_make_experiment(mlflow_client(uri), experiment)
    view = f"{TRAINING_VIEW}&compareRunsMode=CHART"
    return f"{pages_url(uri)}/#/experiments/{number}/runs?{view}"


def mlflow_client(uri: str) -> Any:
    """Make an MLflow client that gives up on a dead server in seconds, not minutes.

    Raises:
        mlflow.exceptions.MlflowException: the store cannot be opened, its path is none that MLflow
            can take, or it is that of a moved or copied home and cannot be changed to look for
            artifacts there.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if (path := local_database(uri)) is not None:
        if refusal := no_database_at(path):
            raise MlflowException(refusal)
        if not path.exists():
            _make_store(path)
        elif _is_of_a_home(path):
            _come_home(path)
    return MlflowClient(tracking_uri=uri)


def local_database(uri: str) -> Path | None:
    """Name the file of a store that is one; None: a server, or another database."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def adopt_artifacts(path: Path, *, dry_run: bool = False) -> dict[str, int]:
    """Let a home's database look for artifacts beside it, in one transaction.

    Args:
        path: the database, as ``local_database`` names it.
        dry_run: only count.

    Returns:
        Address where they were looked for → how many runs. Empty where nothing had to be changed.

    Raises:
        sqlite3.Error: it is no database of MLflow, or another process is writing to it.
    """
    here = (path.parent / "artifacts").resolve().as_uri()
    with closing(sqlite3.connect(path, timeout=WAITS_S)) as database, database:
        old = {
            address
            for (address,) in database.execute("SELECT artifact_location FROM experiments")
            if address.startswith("file://") and address.endswith(_FOLDER) and address != here
        }
        counts = {}
        for address in sorted(old):
            below = (len(address), address)
            query = "SELECT count(*) FROM runs WHERE substr(artifact_uri, 1, ?) = ?"
            counts[address] = database.execute(query, below).fetchone()[0]
            for table, column in () if dry_run else _COLUMNS:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (here, len(address) + 1, address, len(address) + 1, f"{address}/"),
                )
    return counts


def mend_moved_store(layout: DataLayout, *, dry_run: bool = False) -> dict[str, int]:
    """Let a home's database look for artifacts in this home, as ``adopt_artifacts`` does.

    Raises:
        ArtifactError: it is no database of MLflow, or another process is writing to it.
    """
    path = layout.mlflow / "mlflow.db"
    try:
        return adopt_artifacts(path, dry_run=dry_run) if path.is_file() else {}
    except sqlite3.Error as error:
        raise ArtifactError(
            f"{path} cannot be changed ({error}); expected a database of MLflow that no server has "
            "open: stop it, or bring the file back from a copy"
        ) from None


def _is_of_a_home(path: Path) -> bool:
    """Tell a home's database from one that somebody keeps elsewhere; runs have artifacts."""
    is_named_so = path.parts[-2:] == ("mlflow", "mlflow.db")
    return is_named_so and (path.parent.parent / "runs").is_dir()


def _come_home(path: Path) -> None:
    from mlflow.exceptions import MlflowException

    try:
        adopted = adopt_artifacts(path)
    except sqlite3.Error as error:
        raise MlflowException(
            f"{path} cannot be asked or changed ({error}), so that artifacts could go to the home "
            "that it was copied from; stop what has it open, then: stems migrate"
        ) from None
    for address, runs in adopted.items():
        _log.info(
            "this home was moved or copied: MLflow looks for artifacts of %s runs in %s, no more "
            "in %s",
            *(runs, path.parent / "artifacts", address),
        )


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
