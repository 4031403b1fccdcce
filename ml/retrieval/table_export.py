"""A table as a file for other programs: Parquet with everything, CSV without the vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ml.artifacts import write_aside
from ml.retrieval.database import open_table

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import Table

SUFFIXES = (".parquet", ".csv")
LABEL_SEPARATOR = " > "
_BATCH_ROWS = 8192


def export_table(uri: str, name: str, path: Path, *, where: str | None = None) -> int:
    """Write a table to a file, aside and renamed; a few thousand rows are in memory at a time.

    Args:
        uri: the database.
        name: the table.
        path: ends in ``.parquet`` (all columns) or ``.csv`` (without ``vector``; the labels of a
            stem are joined by " > ").
        where: an SQL condition on the columns; None: all rows.

    Returns:
        Number of rows.

    Raises:
        ValueError: another suffix, or ``where`` is not understood.
        ArtifactError: there is no such table.
    """
    from ml.retrieval.gallery import checked_filter

    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix!r}; expected {' or '.join(SUFFIXES)}")
    table = open_table(uri, name)
    condition = None if where is None else checked_filter(table, where)
    with write_aside(path) as aside:
        write = _write_parquet if path.suffix == ".parquet" else _write_csv
        return write(table, condition, aside)


def _write_parquet(table: Table, where: str | None, aside: Path) -> int:
    import pyarrow.parquet as pq

    rows = 0
    with pq.ParquetWriter(aside, table.schema, compression="zstd") as writer:
        for batch in _batches(table, where, table.schema.names):
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _write_csv(table: Table, where: str | None, aside: Path) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    names = [name for name in table.schema.names if name != "vector"]
    types = {name: table.schema.field(name).type for name in names}
    schema = pa.schema(
        [(name, pa.string() if pa.types.is_list(types[name]) else types[name]) for name in names]
    )
    rows = 0
    with csv.CSVWriter(aside, schema) as writer:
        for batch in _batches(table, where, names):
            columns = [
                pc.call_function("binary_join", [batch[name], LABEL_SEPARATOR])
                if pa.types.is_list(types[name])
                else batch[name]
                for name in names
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            rows += batch.num_rows
    return rows


def _batches(table: Table, where: str | None, columns: list[str]) -> Iterator[pa.RecordBatch]:
    query = table.search().select(columns)
    query = query if where is None else query.where(where)
    yield from query.to_batches(batch_size=_BATCH_ROWS)
