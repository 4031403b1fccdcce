"""Scores as files: ``scores/<evaluation>/<corpus>/``, and all of them as one list.

``scores.parquet`` one row a figure (``SCORE_COLUMNS``), ``queries.parquet`` one row a query and
model: the rank of its target and which stem came first. Figures are percent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml.artifacts import (
    MANIFEST_NAME,
    Artifact,
    ArtifactError,
    DataLayout,
    read_manifest,
    write_aside,
)

FORMAT_VERSION = 1
SCORES, QUERIES = "scores.parquet", "queries.parquet"
MADE_BY = "stems evaluate retrieval"
_TEXT, _COUNT, _NUMBER = "string", "int64", "float64"
SCORE_COLUMNS = {
    "evaluation": _TEXT,
    "corpus": _TEXT,
    "model": _TEXT,
    "conditioning": _TEXT,
    "n_queries": _COUNT,
    "n_gallery": _COUNT,
    "metric": _TEXT,
    "value": _NUMBER,
    "low": _NUMBER,
    "high": _NUMBER,
    "chance": _NUMBER,
}
QUERY_COLUMNS = {
    **dict.fromkeys(("model", "conditioning", "stem_id", "track_id", "label"), _TEXT),
    "rank": _COUNT,
    "nearest_stem_id": _TEXT,
}


def write_scores(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write ``scores.parquet``."""
    _write(rows, SCORE_COLUMNS, folder / SCORES)


def write_queries(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write ``queries.parquet``."""
    _write(rows, QUERY_COLUMNS, folder / QUERIES)


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
        read_manifest(path.parent, format_version=FORMAT_VERSION, made_by=MADE_BY)
        rows += _read(path.parent / SCORES)
    return [
        {name: _json_number(row[name]) for name in SCORE_COLUMNS}
        for row in rows
        if evaluation in (None, row["evaluation"]) and corpus in (None, row["corpus"])
    ]


def read_artifact_scores(artifact: Artifact) -> list[dict[str, Any]]:
    """The scores of one artifact, as ``read_scores`` returns them."""
    rows = _read(artifact.path / SCORES)
    return [{name: _json_number(row[name]) for name in SCORE_COLUMNS} for row in rows]


def _write(rows: Sequence[dict[str, Any]], columns: dict[str, str], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {_TEXT: pa.string(), _COUNT: pa.int64(), _NUMBER: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    with write_aside(path) as aside:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), aside)


def _read(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read().to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise ArtifactError(
            f"{path} is missing or damaged ({error}); delete {path.parent} and make it again "
            f"with: {MADE_BY} --corpus {path.parent.name}"
        ) from None


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
