"""MLflow's own database in a home that was moved or copied: where the artifacts of its runs lie.

MLflow keeps absolute addresses and has no call that changes them; its maintainers' advice is SQL.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

from ml.artifacts import DataLayout

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
_FOLDER = "/mlflow/artifacts"
"""How the address ends that ``tracking.find_or_make_experiment`` gives a local store."""


def adopt_artifacts(layout: DataLayout, *, dry_run: bool = False) -> dict[str, int]:
    """Let a home's MLflow database look for artifacts in this home, in one transaction.

    Args:
        layout: the home; no MLflow server should run on it.
        dry_run: only count.

    Returns:
        Address where they were looked for → how many runs. Empty where nothing had to be changed.
    """
    path = layout.mlflow / "mlflow.db"
    if not path.is_file():
        return {}
    here = (layout.mlflow / "artifacts").resolve().as_uri()
    with closing(sqlite3.connect(path)) as database, database:
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
