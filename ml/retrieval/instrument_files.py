"""The instrument analysis as files: ``scores/instruments/<corpus>/``.

Beside ``scores.parquet`` (``ml.retrieval.score_files``): ``instruments.parquet`` one row per model
and instrument, ``confusion.parquet`` one row per model and pair of categories. Shares are percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml.artifacts import ArtifactError, DataLayout, read_manifest
from ml.retrieval.embedding_files import write_table
from ml.retrieval.score_files import FORMAT_VERSION

EVALUATION = "instruments"
INSTRUMENTS, CONFUSION = "instruments.parquet", "confusion.parquet"
MADE_BY = "stems evaluate instruments --corpus"
SHARES = (
    "right_stem",
    "right_track_right_instrument",
    "right_track_right_category",
    "right_track_wrong_category",
    "other_track_right_instrument",
    "other_track_right_category",
    "other_track_wrong_category",
)
"""What the nearest stem was: the first that applies (Riou et al., Fig. 2). "Right instrument" is
the same finest label, "right category" the same coarsest one."""
_TEXT, _COUNT, _NUMBER = "string", "int64", "float64"
INSTRUMENT_COLUMNS = {
    **dict.fromkeys(("model", "conditioning", "instrument", "category"), _TEXT),
    "queries": _COUNT,
    **dict.fromkeys(SHARES, _NUMBER),
    "recall@10": _NUMBER,
    "normalized_rank_mean": _NUMBER,
    "presence": _TEXT,
    "nearest_training_label": _TEXT,
    "similarity": _NUMBER,
}
CONFUSION_COLUMNS = {
    **dict.fromkeys(("model", "conditioning", "category", "nearest_category"), _TEXT),
    "queries": _COUNT,
    "share": _NUMBER,
}


def write_instruments(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write ``instruments.parquet``."""
    _write(rows, INSTRUMENT_COLUMNS, folder / INSTRUMENTS)


def write_confusion(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write ``confusion.parquet``."""
    _write(rows, CONFUSION_COLUMNS, folder / CONFUSION)


def read_instruments(layout: DataLayout, corpus: str) -> list[dict[str, Any]]:
    """Rows of ``instruments.parquet``.

    Raises:
        ArtifactError: the analysis was not made, is damaged or has a newer format.
    """
    return _read(layout.scores(EVALUATION, corpus), INSTRUMENTS)


def read_confusion(layout: DataLayout, corpus: str) -> list[dict[str, Any]]:
    """Rows of ``confusion.parquet``.

    Raises:
        ArtifactError: the analysis was not made, is damaged or has a newer format.
    """
    return _read(layout.scores(EVALUATION, corpus), CONFUSION)


def _write(rows: Sequence[dict[str, Any]], columns: dict[str, str], path: Path) -> None:
    import pyarrow as pa

    types = {_TEXT: pa.string(), _COUNT: pa.int64(), _NUMBER: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


def _read(folder: Path, name: str) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    made_by = f"{MADE_BY} {folder.name}"
    read_manifest(folder, format_version=FORMAT_VERSION, made_by=made_by)
    try:
        return pq.ParquetFile(folder / name).read().to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise ArtifactError(
            f"{folder / name} is missing or damaged ({error}); delete {folder} and make it again "
            f"with: {made_by}"
        ) from None
