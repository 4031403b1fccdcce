"""Embeddings as files: ``embeddings/<model_id>/<corpus>/`` and what its Parquet files hold.

``gallery.parquet`` one row a stem, ``chunks.parquet`` one row a sounding chunk of a stem,
``queries-<conditioning>.parquet`` one row a query. All vectors are float32 of unit norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import ArtifactError, DataLayout, read_manifest, write_aside

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 1
GALLERY, CHUNKS = "gallery.parquet", "chunks.parquet"
MADE_BY = "stems embed"
_ROWS_A_GROUP = 16_384
"""Joined files have row groups of at least so many rows, 50 MB at 768 dimensions."""


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


def queries_name(conditioning: str) -> str:
    """File name of the queries made with a conditioning."""
    return f"queries-{conditioning}.parquet"


def stem_schema(dim: int, *, has_start: bool = False) -> pa.Schema:
    """Columns of ``gallery.parquet``, with ``has_start`` of ``chunks.parquet``."""
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
    """Rows and their vectors (row, dim) as an Arrow table."""
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
    """Queries: the stems looked for, the texts conditioned with, the vectors (row, dim)."""
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
    """(row, dim) float32 as a column of fixed-size lists."""
    import pyarrow as pa

    flat = np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])


def vectors_of(table: pa.Table) -> np.ndarray:
    """The ``vector`` column as (row, dim) float32."""
    column = table["vector"].combine_chunks()
    dim = column.type.list_size
    return column.flatten().to_numpy().reshape(-1, dim)


def write_table(table: pa.Table, path: Path) -> None:
    """Write Parquet aside and rename."""
    import pyarrow.parquet as pq

    with write_aside(path) as aside:
        pq.write_table(table, aside, compression="zstd")


def join_tables(paths: Sequence[Path], into: Path) -> int:
    """Write the rows of some Parquet files, in this order, aside and rename.

    Args:
        paths: of one schema; a few row groups are in memory at a time.
        into: the file to write.

    Returns:
        Number of rows.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, waiting = 0, []
    schema = read_table(paths[0]).schema
    with write_aside(into) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for table in map(read_table, paths):
            rows += len(table)
            waiting.append(table)
            if sum(map(len, waiting)) >= _ROWS_A_GROUP:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
    return rows


def read_table(path: Path) -> pa.Table:
    """Read Parquet.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read()
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise ArtifactError(
            f"{path} is missing or damaged ({error}); delete {path.parent} and embed the corpus "
            f"again"
        ) from None


def read_embedding_manifest(layout: DataLayout, model_id: str, corpus: str) -> dict[str, Any]:
    """The manifest of a model's embeddings of a corpus.

    Raises:
        ArtifactError: there are none, or they have a newer format.
    """
    folder = layout.embeddings(model_id, corpus)
    return read_manifest(folder, format_version=FORMAT_VERSION, made_by=f"{MADE_BY} {corpus}")


def read_embeddings(
    layout: DataLayout, model_id: str, corpus: str, conditioning: str = "fine"
) -> Embeddings:
    """Gallery and queries of a corpus by a model.

    Raises:
        ArtifactError: they were not made (with this conditioning), or are damaged.
    """
    manifest = read_embedding_manifest(layout, model_id, corpus)
    folder = layout.embeddings(model_id, corpus)
    made = manifest["identity"]["conditionings"]
    if conditioning not in made:
        raise ArtifactError(
            f"{folder} holds queries conditioned {', '.join(made)}, not {conditioning}; make "
            f"them with: {MADE_BY} {corpus} --conditioning {conditioning}"
        )
    return Embeddings(
        manifest=manifest,
        gallery=read_table(folder / GALLERY),
        queries=read_table(folder / queries_name(conditioning)),
    )
