"""The instrument analysis as files: ``scores/instruments/<corpus>/``.

Beside ``scores.parquet`` (``ml.retrieval.score_files``): ``instruments.parquet`` one row per model
and instrument, ``confusion.parquet`` one row per model and pair of categories. Shares are percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml.artifacts import DataLayout, read_manifest
from ml.retrieval.score_files import (
    COUNT,
    FORMAT_VERSION,
    NUMBER,
    TEXT,
    read_rows,
    write_rows,
)

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
INSTRUMENT_COLUMNS = {
    **dict.fromkeys(("model", "conditioning", "instrument", "category"), TEXT),
    "queries": COUNT,
    **dict.fromkeys(SHARES, NUMBER),
    "recall@10": NUMBER,
    "normalized_rank_mean": NUMBER,
    "presence": TEXT,
    "nearest_training_label": TEXT,
    "similarity": NUMBER,
}
CONFUSION_COLUMNS = {
    **dict.fromkeys(("model", "conditioning", "category", "nearest_category"), TEXT),
    "queries": COUNT,
    "share": NUMBER,
}


def write_instruments(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write ``instruments.parquet``."""
    write_rows(rows, INSTRUMENT_COLUMNS, folder / INSTRUMENTS)


def write_confusion(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write ``confusion.parquet``."""
    write_rows(rows, CONFUSION_COLUMNS, folder / CONFUSION)


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


def _read(folder: Path, name: str) -> list[dict[str, Any]]:
    made_by = f"{MADE_BY} {folder.name}"
    read_manifest(folder, format_version=FORMAT_VERSION, made_by=made_by)
    return read_rows(folder / name, made_by)
