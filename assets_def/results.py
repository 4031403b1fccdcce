"""From an ``ml`` artifact to what Dagster records of it: version, numbers, lineage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from ml.artifacts import Artifact, fingerprint, read_json
from ml.revision import git_revision

_MLFLOW_UI = "http://127.0.0.1:5000"
"""Where ``make mlflow`` serves the project's own store."""


def materialized(
    artifact: Artifact,
    *,
    rows: int | None = None,
    table: Path | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dg.MaterializeResult:
    """The result of an asset that is one artifact.

    Args:
        artifact: what the builder returned; its summary becomes metadata.
        rows: how many rows it has.
        table: a Parquet file of it, for its columns.
        metadata: what else to show; wins over the summary.
    """
    shown = {
        "uri": dg.MetadataValue.path(artifact.path),
        **{key: value for key, value in artifact.summary.items() if value is not None},
        "reused": artifact.reused,
        "git_revision": git_revision(),
        **(metadata or {}),
    }
    if rows is not None:
        shown["dagster/row_count"] = rows
    if table is not None:
        shown["dagster/column_schema"] = column_schema(table)
    return dg.MaterializeResult(data_version=data_version([artifact]), metadata=shown)


def data_version(artifacts: Sequence[Artifact]) -> dg.DataVersion:
    """One version for one or several artifacts."""
    prints = [artifact.fingerprint for artifact in artifacts]
    return dg.DataVersion((prints[0] if len(prints) == 1 else fingerprint(prints))[:16])


def together(folder: Path, artifacts: Mapping[str, Artifact], **summary: Any) -> Artifact:
    """Several artifacts that one asset stands for, as one.

    Args:
        folder: what holds them all.
        artifacts: by name; the names go into the version.
        summary: what to tell of all of them.
    """
    return Artifact(
        path=folder,
        fingerprint=fingerprint({name: a.fingerprint for name, a in artifacts.items()}),
        reused=all(artifact.reused for artifact in artifacts.values()),
        summary=summary,
    )


def mlflow_run(checkpoint: Path, tracking_uri: str) -> dict[str, Any]:
    """The MLflow run of a checkpoint as metadata; empty where it was not tracked."""
    run_id = read_json(checkpoint / "manifest.json").get("mlflow_run_id")
    if not run_id:
        return {}
    server = tracking_uri if tracking_uri.startswith("http") else _MLFLOW_UI
    return {"mlflow_run": dg.MetadataValue.url(f"{server.rstrip('/')}/#/runs/{run_id}")}


def column_schema(path: Path) -> dg.TableSchema:
    """Columns of a Parquet file."""
    import pyarrow.parquet as pq

    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=column.name, type=str(column.type))
            for column in pq.read_schema(path)
        ]
    )
