"""Parquet files: written aside and renamed, read whole, joined without holding all rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ml.artifacts import ArtifactError, write_aside

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

_ROWS_A_GROUP = 16_384
"""Joined files have row groups of at least so many rows, 50 MB at 768 dimensions."""


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
            f"{path} is missing or damaged ({error}); delete {path.parent} and make it again"
        ) from None


def read_frame(path: Path) -> pl.DataFrame:
    """Read Parquet for polars, which would take ``[x]``, ``*`` and ``?`` in a path for patterns."""
    import polars as pl

    return pl.read_parquet(path, glob=False)
