"""Scores as files: ``scores/<evaluation>/<corpus>/``, all of them as one list, copies in MLflow.

``scores.parquet`` has one row a figure (``SCORE_COLUMNS``), in percent. Each evaluation may write
more beside it, such as ``queries.parquet``: one row a query and model, with the rank of its target
and which stem came first.

The files are the record. The MLflow runs that trained the models get copies, as metrics called
``<evaluation>/<corpus>/<conditioning>/<metric>``, such as ``retrieval/demo/fine/recall_at_1``:
MLflow allows no "@" in names. Figures of the encoder's gallery (``predecessor`` protocol) have
``encoder-gallery/`` before the metric. A tracking server that is down costs a warning.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml import kinds
from ml.artifacts import (
    MANIFEST_NAME,
    Artifact,
    ArtifactError,
    DataLayout,
    find_current,
    fingerprint,
    finish,
    read_json,
    read_manifest,
    write_json,
)
from ml.locks import lock
from ml.mlflow_store import local_database, mlflow_client
from ml.parquet import read_table, write_table
from ml.scores.intervals import INTERVALS_VERSION, Interval

SCORES, QUERIES = "scores.parquet", "queries.parquet"
MADE_BY = "stems evaluate retrieval"
BY_ENCODER = " (encoder gallery)"
"""Added to a model's name where the gallery is the encoder's, not the target encoder's."""
PAIRED = "retrieval-paired"
"""The evaluation whose figures are differences of two models, "A minus B"."""
SWAPPED, LOSS = "-swapped", "-swapped-loss"
"""Added to the name of an evaluation: the same queries with the mix of another track, and by how
much that is worse (``ml.retrieval.evaluation.controls``)."""
LABEL = "label"
"""The row of looking the asked label up (``ml.retrieval.evaluation.controls``)."""
TEXT, COUNT, NUMBER = "string", "int64", "float64"
"""Kinds of columns, for ``write_rows``."""
SENT_NAME = "mlflow.json"
"""Beside the scores: what was sent where, so that nothing is sent twice."""
SCORE_COLUMNS = {
    **dict.fromkeys(("evaluation", "corpus", "model", "conditioning"), TEXT),
    **dict.fromkeys(("n_queries", "n_gallery"), COUNT),
    "metric": TEXT,
    **dict.fromkeys(("value", "low", "high", "chance"), NUMBER),
}
QUERY_COLUMNS = {
    **dict.fromkeys(("model", "conditioning", "stem_id", "track_id", "label"), TEXT),
    "rank": COUNT,
    "nearest_stem_id": TEXT,
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The outcome of an evaluation, before it is written."""

    scores: Sequence[Mapping[str, Any]]
    """Rows with ``SCORE_COLUMNS``."""
    summary: Mapping[str, Any]
    """Counts and figures for people."""
    write_more: Callable[[Path], None]
    """Writes what lies beside the scores into their folder."""


def evaluate_once(
    layout: DataLayout,
    evaluation: str,
    corpus: str,
    identity: Mapping[str, Any],
    compute: Callable[[], Evaluated],
) -> Artifact:
    """Return the scores on disk if they have this identity; else compute and write them.

    Args:
        layout: where scores lie.
        evaluation: names the folder, with the corpus.
        corpus: its name.
        identity: all that the scores depend on; ``INTERVALS_VERSION`` is added.
        compute: makes them; nothing is locked meanwhile.
    """
    identity = {**identity, "intervals": INTERVALS_VERSION}
    folder = layout.scores(evaluation, corpus)
    current = find_current(folder, identity, kinds.SCORES)
    if current is not None:
        return current
    made = compute()
    with lock(folder / ".lock"):
        write_scores(made.scores, folder)
        made.write_more(folder)
        return finish(folder, identity, kinds.SCORES, summary=made.summary)


def score_row(
    header: Mapping[str, Any], metric: str, interval: Interval, *, n_queries: int, chance: float
) -> dict[str, Any]:
    """Make a row of ``scores.parquet``, but for what ``header`` leaves open."""
    return {
        **header,
        "n_queries": n_queries,
        "metric": metric,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "chance": chance,
    }


def write_scores(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write ``scores.parquet``."""
    write_rows(rows, SCORE_COLUMNS, folder / SCORES)


def write_queries(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write ``queries.parquet``."""
    write_rows(rows, QUERY_COLUMNS, folder / QUERIES)


def write_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], path: Path) -> None:
    """Write rows as Parquet; ``columns`` gives names and kinds, and their order."""
    import pyarrow as pa

    types = {TEXT: pa.string(), COUNT: pa.int64(), NUMBER: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


def scored_corpora(layout: DataLayout, evaluation: str) -> list[str]:
    """List the corpora that an evaluation has scores of, sorted."""
    manifests = layout.scores(evaluation, "corpus").parent.glob(f"*/{MANIFEST_NAME}")
    return sorted(path.parent.name for path in manifests)


def scored_models(layout: DataLayout, evaluation: str, corpus: str) -> dict[str, str]:
    """Read which version of each model was scored: name → model_id."""
    manifest = read_manifest(layout.scores(evaluation, corpus), kinds.SCORES)
    return dict(manifest["identity"]["models"])


def read_scores(
    layout: DataLayout, *, evaluation: str | None = None, corpus: str | None = None
) -> list[dict[str, Any]]:
    """Read the latest scores of all evaluations, as dicts with ``SCORE_COLUMNS``.

    Returns:
        Rows by folder (evaluation, corpus), as written; ``low`` and ``high`` are None where there
        is no interval (a single track).

    Raises:
        ArtifactError: scores are damaged or have another format.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted((layout.home / "scores").glob(f"*/*/{MANIFEST_NAME}")):
        read_manifest(path.parent, kinds.SCORES)
        rows += _read_folder(path.parent)
    return [
        row
        for row in rows
        if evaluation in (None, row["evaluation"]) and corpus in (None, row["corpus"])
    ]


def read_artifact_scores(artifact: Artifact) -> list[dict[str, Any]]:
    """Read the scores of one artifact, as ``read_scores`` returns them."""
    return _read_folder(artifact.path)


def read_rows(path: Path, made_by: str) -> list[dict[str, Any]]:
    """Read the rows of a Parquet file of scores.

    Raises:
        ArtifactError: missing or damaged; says to make it again with ``made_by``.
    """
    try:
        return read_table(path).to_pylist()
    except ArtifactError as error:
        raise ArtifactError(f"{error} with: {made_by}") from None


def _read_folder(folder: Path) -> list[dict[str, Any]]:
    rows = read_rows(folder / SCORES, kinds.SCORES.remedy(folder))
    return [{name: _none_for_nan(row[name]) for name in SCORE_COLUMNS} for row in rows]


def _none_for_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


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
