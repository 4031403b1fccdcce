"""MLflow's own database in a home that was moved or copied: where the artifacts of its runs lie.

MLflow keeps absolute addresses and has no call that changes them; its maintainers' advice is SQL.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from ml.artifacts import ArtifactError, DataLayout

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
WAITS_S = 5.0
"""For who writes to the database."""
_FOLDER = "/mlflow/artifacts"
"""How the address ends that ``tracking.find_or_make_experiment`` gives a local store."""


def adopt_artifacts(layout: DataLayout, *, dry_run: bool = False) -> dict[str, int]:
    """Let a home's MLflow database look for artifacts in this home, in one transaction.

    Args:
        layout: the home; no MLflow server should run on it.
        dry_run: only count.

    Returns:
        Address where they were looked for → how many runs. Empty where nothing had to be changed.

    Raises:
        ArtifactError: it is no database of MLflow, or another process is writing to it.
    """
    path = layout.mlflow / "mlflow.db"
    if not path.is_file():
        return {}
    try:
        return _adopt(path, (layout.mlflow / "artifacts").resolve().as_uri(), dry_run=dry_run)
    except sqlite3.Error as error:
        raise ArtifactError(
            f"{path} cannot be changed ({error}); expected a database of MLflow that no server has "
            "open: stop it, or bring the file back from a copy"
        ) from None


def _adopt(path: Path, here: str, *, dry_run: bool) -> dict[str, int]:
    with closing(sqlite3.connect(path, timeout=WAITS_S)) as database, database:
        old = [
            address
            for (address,) in database.execute("SELECT artifact_location FROM experiments")
            if address.startswith("file://") and address.endswith(_FOLDER) and address != here
        ]
        counts = {}
        for address in sorted(set(old)):
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
