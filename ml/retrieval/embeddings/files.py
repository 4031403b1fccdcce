"""Embeddings as files: ``embeddings/<model_id>/<corpus>/`` and what its Parquet files hold.

``gallery.parquet`` has one row a stem, ``chunks.parquet`` one row a sounding chunk of a stem,
``queries-<conditioning>.parquet`` one row a query. The ``predecessor`` protocol has a folder of
that name beside them: ``gallery.parquet`` (the target encoder's; in phase 1 the encoder's),
``encoder-gallery.parquet`` (phase 2 only) and queries. All vectors are float32 of unit norm, but
for those of the same names after ``means-``, for the ``paper`` protocol: means over all patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml import kinds
from ml.artifacts import ArtifactError, DataLayout, read_manifest
from ml.kinds import ArtifactKind
from ml.parquet import read_table
from ml.scores.files import BY_ENCODER

if TYPE_CHECKING:
    import pyarrow as pa

GALLERY, CHUNKS = "gallery.parquet", "chunks.parquet"
ENCODER_GALLERY = "encoder-gallery.parquet"
MEANS = "means-"
"""Before the names of files of the ``paper`` protocol."""
PREDECESSOR = "predecessor"
"""Folder of that protocol's embeddings, below those of the default one."""
ROW_BLOCK = 8192
"""Rows that are taken at a time in float64."""


@dataclass(frozen=True, kw_only=True)
class StemRow:
    """What is known of a stem besides its vector: the columns users filter by."""

    stem_id: str
    track_id: str
    corpus: str
    split: str | None
    label: str
    """The finest label, ``"music"`` when it has none."""
    category: str | None
    """The coarsest label."""
    labels: tuple[str, ...]
    """All labels, coarse to fine."""
    duration_s: float
    audio: str
    """Absolute path; several files are separated by line breaks."""


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """What one model made of one corpus."""

    manifest: Mapping[str, Any]
    gallery: pa.Table
    queries: pa.Table


def predecessor_folder(layout: DataLayout, model_id: str, corpus: str) -> Path:
    """Name the folder of a model's embeddings of a corpus by the ``predecessor`` protocol."""
    return layout.embeddings(model_id, corpus) / PREDECESSOR


def read_embedding_manifest(layout: DataLayout, model_id: str, corpus: str) -> dict[str, Any]:
    """Read the manifest of a model's embeddings of a corpus.

    Raises:
        ArtifactError: there are none, or they have another format.
    """
    return read_manifest(layout.embeddings(model_id, corpus), kinds.EMBEDDINGS)


def read_embeddings(
    layout: DataLayout, model_id: str, corpus: str, conditioning: str = "fine"
) -> Embeddings:
    """Read gallery and queries of a corpus by a model.

    Raises:
        ArtifactError: they were not made (with this conditioning), or are damaged.
    """
    folder = layout.embeddings(model_id, corpus)
    manifest = _manifest_with(folder, kinds.EMBEDDINGS, conditioning)
    return Embeddings(
        manifest=manifest,
        gallery=read_table(folder / GALLERY),
        queries=read_table(folder / queries_name(conditioning)),
    )


def read_predecessor(
    layout: DataLayout,
    model_id: str,
    corpus: str,
    conditioning: str = "fine",
    *,
    before: str = "",
) -> dict[str, Embeddings]:
    """Read galleries and queries of a corpus by a model, of the ``predecessor`` protocol.

    Args:
        layout: where they lie.
        model_id: of the model.
        corpus: its name.
        conditioning: of the queries.
        before: ``MEANS``: those of the ``paper`` protocol.

    Returns:
        What to add to the model's name → embeddings: ``""`` the target encoder's gallery (phase 1:
        the encoder's), ``BY_ENCODER`` the encoder's (phase 2 only).

    Raises:
        ArtifactError: they were not made (with this conditioning), or are damaged.
    """
    folder = predecessor_folder(layout, model_id, corpus)
    manifest = _manifest_with(folder, kinds.PREDECESSOR_EMBEDDINGS, conditioning)
    queries = read_table(folder / f"{before}{queries_name(conditioning)}")
    galleries = {"": GALLERY}
    if manifest["has_encoder_gallery"]:
        galleries[BY_ENCODER] = ENCODER_GALLERY
    return {
        suffix: Embeddings(
            manifest=manifest, gallery=read_table(folder / f"{before}{file}"), queries=queries
        )
        for suffix, file in galleries.items()
    }


def _manifest_with(folder: Path, kind: ArtifactKind, conditioning: str) -> dict[str, Any]:
    """Read the manifest of embeddings, which must have queries of a conditioning."""
    manifest = read_manifest(folder, kind)
    made = manifest["identity"]["conditionings"]
    if conditioning not in made:
        holds = f"queries conditioned {', '.join(made)}, not" if made else "no queries conditioned"
        raise ArtifactError(
            f"{folder} holds {holds} {conditioning}; make them with: {kind.remedy(folder)} "
            f"--conditioning {conditioning}"
        )
    return manifest


def queries_name(conditioning: str) -> str:
    """Name the file of the queries made with a conditioning."""
    return f"queries-{conditioning}.parquet"


def stem_schema(dim: int, *, has_start: bool = False) -> pa.Schema:
    """List the columns of ``gallery.parquet``, with ``has_start`` of ``chunks.parquet``."""
    import pyarrow as pa

    columns = [(name, pa.string()) for name in ("stem_id", "track_id", "corpus", "split")]
    columns += [
        ("label", pa.string()),
        ("category", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("duration_s", pa.float64()),
        ("audio", pa.string()),
    ]
    start = [("start_s", pa.float64())] if has_start else []
    return pa.schema([*columns, *start, ("vector", pa.list_(pa.float32(), dim))])


def stem_table(
    rows: Sequence[StemRow], vectors: np.ndarray, start_s: np.ndarray | None = None
) -> pa.Table:
    """Put stems and their vectors (row, dim) into an Arrow table."""
    import pyarrow as pa

    schema = stem_schema(vectors.shape[1], has_start=start_s is not None)
    columns: dict[str, Any] = {
        name: [getattr(row, name) for row in rows] for name in StemRow.__dataclass_fields__
    }
    columns["vector"] = vector_column(vectors)
    if start_s is not None:
        columns["start_s"] = start_s
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def query_table(rows: Sequence[StemRow], labels: Sequence[str], vectors: np.ndarray) -> pa.Table:
    """Put queries into a table: stems looked for, texts conditioned with, vectors (row, dim)."""
    import pyarrow as pa

    return pa.table(
        {
            "stem_id": pa.array([row.stem_id for row in rows], pa.string()),
            "track_id": pa.array([row.track_id for row in rows], pa.string()),
            "label": pa.array(labels, pa.string()),
            "vector": vector_column(vectors),
        }
    )


def vector_column(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """Make a column of fixed-size lists from (row, dim) float32."""
    import pyarrow as pa

    flat = np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])


def vectors_of(table: pa.Table) -> np.ndarray:
    """Read the ``vector`` column as (row, dim) float32."""
    column = table["vector"].combine_chunks()
    dim = column.type.list_size
    return column.flatten().to_numpy().reshape(-1, dim)


def unit_rows(vectors: np.ndarray, name: str = "vectors") -> np.ndarray:
    """Divide rows by their Euclidean norm: (row, dim) float32.

    Raises:
        ValueError: not two-dimensional, or a row that is zero or not finite (names the row).
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2:
        raise ValueError(f"{name} have shape {vectors.shape}; expected (row, dim)")
    blocks = [slice(i, i + ROW_BLOCK) for i in range(0, len(vectors), ROW_BLOCK)]
    squares = [np.square(vectors[rows], dtype=np.float64).sum(axis=1) for rows in blocks]
    norms = np.sqrt(np.concatenate(squares)) if squares else np.zeros(0)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
        row = int(bad[0])
        what = "is zero" if norms[row] == 0 else "holds NaN or infinity"
        raise ValueError(
            f"row {row} of {name} {what} ({len(bad)} such rows of {len(vectors)}); a silent or "
            f"failed stem must be left out before ranking"
        )
    unit = np.empty_like(vectors)
    for rows in blocks:
        unit[rows] = vectors[rows] / norms[rows, None]
    return unit
