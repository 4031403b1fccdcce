"""What an update or a move asks of a home: other formats are named, MLflow's paths mended.

Artifacts are not rewritten: a reader refuses another format and names the command that makes it
anew, and here all of them are listed.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, read_json
from ml.kinds import KINDS, ArtifactKind
from ml.mlflow_store import adopt_artifacts


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


def mend_moved_store(layout: DataLayout, *, dry_run: bool = False) -> dict[str, int]:
    """Let a home's MLflow database look for artifacts in this home.

    Args:
        layout: the home; no MLflow server should run on it.
        dry_run: only count.

    Returns:
        As ``ml.mlflow_store.adopt_artifacts``; empty where there is no store.

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
