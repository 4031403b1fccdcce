"""What Dagster is told of an ``ml`` artifact, and what it recorded of earlier ones."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets_def.resources import corpora
from ml.artifacts import Artifact, fingerprint, git_revision, read_json
from ml.kinds import ArtifactKind
from ml.mlflow_store import pages_url
from ml.training.run_folder import mlflow_page

_EARLIER_LOOKED_AT = 500
"""How many evaluations of a check ``earlier_numbers`` reads at most."""


def artifact_asset(
    kind: ArtifactKind, **options: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Declare an asset that stands for artifacts of one kind; its code version is their format."""
    return dg.asset(owners=["team:music-ml"], code_version=str(kind.format_version), **options)


def materialized(
    artifact: Artifact,
    *,
    rows: int | None = None,
    table: Path | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dg.MaterializeResult:
    """Make the result of an asset that is one artifact.

    Args:
        artifact: what the builder returned; its summary becomes metadata.
        rows: how many rows it has.
        table: a Parquet file of it, for its columns.
        metadata: what else to show, and first; wins over the summary.
    """
    told = metadata or {}
    shown = {
        **told,
        **{
            k: value for k, value in artifact.summary.items() if value is not None and k not in told
        },
        "uri": dg.MetadataValue.path(artifact.path),
        "reused": artifact.reused,
        "git_revision": git_revision(),
    }
    if rows is not None:
        shown["dagster/row_count"] = rows
    if table is not None:
        shown["dagster/column_schema"] = _column_schema(table)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(artifact.fingerprint[:16]), metadata=readable(shown)
    )


def readable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Round numbers to three digits, for people; all else stays."""
    return {
        key: float(f"{value:.3g}") if isinstance(value, float) and math.isfinite(value) else value
        for key, value in values.items()
    }


def join_artifacts(folder: Path, artifacts: Mapping[str, Artifact], **summary: Any) -> Artifact:
    """Join several artifacts that one asset stands for.

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


def corpus_check(**options: Any) -> Callable[[Callable[..., Any]], dg.AssetChecksDefinition]:
    """Declare a check of a partitioned asset; each corpus has its own verdicts and plot."""

    def declare(function: Callable[..., Any]) -> dg.AssetChecksDefinition:
        with warnings.catch_warnings():  # Dagster calls partitions of checks a preview
            warnings.simplefilter("ignore", dg.PreviewWarning)
            return dg.asset_check(partitions_def=corpora, **options)(function)

    return declare


def mlflow_run(checkpoint: Path, tracking_uri: str) -> dict[str, Any]:
    """Give the MLflow run of a checkpoint as metadata; empty where it was not tracked."""
    run_id = read_json(checkpoint / "manifest.json").get("mlflow_run_id")
    if not run_id:
        return {}
    page = f"{pages_url(tracking_uri)}/{mlflow_page(checkpoint, run_id)}"
    return {"mlflow_run": dg.MetadataValue.url(page)}


def earlier_numbers(
    context: dg.AssetCheckExecutionContext, asset: dg.AssetsDefinition, check: str
) -> Iterator[Mapping[str, Any]]:
    """Yield the metadata of a check's earlier evaluations as plain values, newest first.

    Artifacts are replaced when they are built anew; Dagster keeps what was said of them.
    """
    records = context.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(asset.key, check), limit=_EARLIER_LOOKED_AT
    )
    for record in records:
        event = record.event.dagster_event if record.event else None
        if event is None or record.run_id == context.run.run_id:
            continue
        evaluation = event.event_specific_data
        if isinstance(evaluation, dg.AssetCheckEvaluation):
            yield {key: value.value for key, value in evaluation.metadata.items()}


def _column_schema(path: Path) -> dg.TableSchema:
    """Read the columns of a Parquet file."""
    import pyarrow.parquet as pq

    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=column.name, type=str(column.type))
            for column in pq.read_schema(path)
        ]
    )
