"""What an update or a move asks of a home: other formats are named, MLflow's paths mended.

Artifacts are not rewritten: a reader refuses another format and names the command that makes it
anew, and here all of them are listed. MLflow keeps absolute addresses of artifacts and has no call
that changes them; its maintainers' advice is SQL.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, read_json
from ml.kinds import KINDS, ArtifactKind

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
"""How the address ends that ``tracking.find_or_make_experiment`` gives a local store."""


@dataclass(frozen=True, kw_only=True)
class OtherFormat:
    """An artifact that this program does not read."""

    folder: Path
    kind: ArtifactKind
    version: Any
    """What its manifest says; None where it says nothing."""


def other_formats(layout: DataLayout) -> list[OtherFormat]:
    """List the artifacts of a home whose format is not the present one, by kind."""
    return [
        OtherFormat(folder=folder, kind=kind, version=version)
        for kind in KINDS
        for folder in sorted(layout.home.glob(kind.folders))
        if (folder / MANIFEST_NAME).is_file()
        and (version := _format_version(folder / MANIFEST_NAME)) != kind.format_version
    ]


def _format_version(path: Path) -> Any:
    try:
        return read_json(path).get("format_version")
    except (ArtifactError, AttributeError):
        return None


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
