"""Scores as files: ``scores/<evaluation>/<corpus>/``, and all of them as one list.

``scores.parquet`` one row a figure (``SCORE_COLUMNS``), ``queries.parquet`` one row a query and
model: the rank of its target and which stem came first. Figures are percent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml import kinds
from ml.artifacts import (
    MANIFEST_NAME,
    Artifact,
    ArtifactError,
    DataLayout,
    read_manifest,
)
from ml.parquet import write_table

SCORES, QUERIES = "scores.parquet", "queries.parquet"


MADE_BY = "stems evaluate retrieval"


TEXT, COUNT, NUMBER = "string", "int64", "float64"
"""Kinds of columns, for ``write_rows``."""


SCORE_COLUMNS = {
    "evaluation": TEXT,
    "corpus": TEXT,
    "model": TEXT,
    "conditioning": TEXT,
    "n_queries": COUNT,
    "n_gallery": COUNT,
    "metric": TEXT,
    "value": NUMBER,
    "low": NUMBER,
    "high": NUMBER,
    "chance": NUMBER,
}


QUERY_COLUMNS = {
    **dict.fromkeys(("model", "conditioning", "stem_id", "track_id", "label"), TEXT),
    "rank": COUNT,
    "nearest_stem_id": TEXT,
}


def write_scores(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write ``scores.parquet``."""
    write_rows(rows, SCORE_COLUMNS, folder / SCORES)


def write_queries(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write ``queries.parquet``."""
    write_rows(rows, QUERY_COLUMNS, folder / QUERIES)


def read_scores(
    layout: DataLayout, *, evaluation: str | None = None, corpus: str | None = None
) -> list[dict[str, Any]]:
    """The latest scores of all evaluations, as dicts with ``SCORE_COLUMNS``.

    Args:
        layout: where scores lie.
        evaluation: only this one.
        corpus: only this one.

    Returns:
        Rows by folder (evaluation, corpus), as written; ``low`` and ``high`` are None where there
        is no interval (a single track).

    Raises:
        ArtifactError: scores are damaged or have a newer format.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted((layout.home / "scores").glob(f"*/*/{MANIFEST_NAME}")):
        read_manifest(path.parent, kinds.SCORES)
        rows += _read_scores(path.parent)
    return [
        {name: _json_number(row[name]) for name in SCORE_COLUMNS}
        for row in rows
        if evaluation in (None, row["evaluation"]) and corpus in (None, row["corpus"])
    ]


def read_artifact_scores(artifact: Artifact) -> list[dict[str, Any]]:
    """The scores of one artifact, as ``read_scores`` returns them."""
    rows = _read_scores(artifact.path)
    return [{name: _json_number(row[name]) for name in SCORE_COLUMNS} for row in rows]


def write_rows(rows: Sequence[dict[str, Any]], columns: Mapping[str, str], path: Path) -> None:
    """Write rows as Parquet; ``columns`` gives names and kinds, and their order."""
    import pyarrow as pa

    types = {TEXT: pa.string(), COUNT: pa.int64(), NUMBER: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


def read_rows(path: Path, made_by: str) -> list[dict[str, Any]]:
    """The rows of a Parquet file of scores.

    Raises:
        ArtifactError: missing or damaged; says to make it again with ``made_by``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read().to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise ArtifactError(
            f"{path} is missing or damaged ({error}); delete {path.parent} and make it again "
            f"with: {made_by}"
        ) from None


def _read_scores(folder: Path) -> list[dict[str, Any]]:
    return read_rows(folder / SCORES, f"{MADE_BY} --corpus {folder.name}")


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


BY_ENCODER = " (encoder gallery)"
"""Added to a model's name where the gallery is the encoder's, not the target encoder's."""
PAIRED = "retrieval-paired"
