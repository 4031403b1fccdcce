"""Tables for people and other programs: at a glance, as a file, and whether all is in them.

Exported as Parquet with everything, or as CSV without the vectors. A model's gallery is complete
when every corpus that counts is published with the model as the corpus is now; nothing is read for
that but manifests and row counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml import kinds
from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, read_manifest, write_aside
from ml.retrieval.embeddings.files import read_embedding_manifest
from ml.retrieval.tables.database import (
    checked_filter,
    connect,
    count_values,
    database_uri,
    open_table,
    reading,
    stored_bytes,
    table_names,
)
from ml.retrieval.tables.index import IndexTuning, read_tuning
from ml.retrieval.tables.publish import CHUNK_TABLE, STEM_TABLE, count_rows, publication_folder
from ml.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import Table

SUFFIXES = (".parquet", ".csv")
LABEL_SEPARATOR = " > "
_BATCH_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class IndexDescription:
    """An index at a glance."""

    column: str
    kind: str
    """As LanceDB names it: "IvfFlat", "BTree"."""
    rows: int
    unindexed_rows: int
    """Rows that came since; they are found, only slower."""


@dataclass(frozen=True, kw_only=True)
class TableDescription:
    """A table at a glance."""

    name: str
    version: int
    rows: int
    rows_by_corpus: Mapping[str, int]
    columns: Mapping[str, str]
    """Name → Arrow type."""
    indices: tuple[IndexDescription, ...]
    """None: every search reads all rows."""
    tuning: IndexTuning | None
    """How the vector index is searched, and the recall measured then."""
    stored_bytes: int
    """All its files, those of earlier versions included."""


def describe_tables(uri: str) -> list[TableDescription]:
    """Describe what the tables of a database hold.

    Raises:
        ArtifactError: there are none.
    """
    names = table_names(uri)
    if not names:
        raise ArtifactError(f"{uri} holds no tables; publish a corpus with: stems embed CORPUS")
    with reading():
        return [_describe(uri, connect(uri).open_table(name)) for name in names]


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
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix!r}; expected {' or '.join(SUFFIXES)}")
    table = open_table(uri, name)
    condition = None if where is None else checked_filter(table, where)
    with write_aside(path) as aside:
        write = _write_parquet if path.suffix == ".parquet" else _write_csv
        return write(table, condition, aside)


def _describe(uri: str, table: Table) -> TableDescription:
    stats = [(index, table.index_stats(index.name)) for index in table.list_indices()]
    return TableDescription(
        name=table.name,
        version=table.version,
        rows=table.count_rows(),
        rows_by_corpus=count_values(table, "corpus"),
        columns={field.name: str(field.type) for field in table.schema},
        indices=tuple(
            IndexDescription(
                column=", ".join(index.columns),
                kind=index.index_type,
                rows=counts.num_indexed_rows,
                unindexed_rows=counts.num_unindexed_rows,
            )
            for index, counts in stats
            if counts is not None
        ),
        tuning=read_tuning(table),
        stored_bytes=stored_bytes(uri, table.name),
    )


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

    fields = [field for field in table.schema if field.name != "vector"]
    is_list = {field.name: pa.types.is_list(field.type) for field in fields}
    schema = pa.schema([(f.name, pa.string() if is_list[f.name] else f.type) for f in fields])
    rows = 0
    with csv.CSVWriter(aside, schema) as writer:
        for batch in _batches(table, where, schema.names):
            columns = [
                pc.call_function("binary_join", [batch[name], LABEL_SEPARATOR])
                if is_list[name]
                else batch[name]
                for name in schema.names
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            rows += batch.num_rows
    return rows


def _batches(table: Table, where: str | None, columns: list[str]) -> Iterator[pa.RecordBatch]:
    query = table.search().select(columns)
    query = query if where is None else query.where(where)
    with reading():
        yield from query.to_batches(batch_size=_BATCH_ROWS)


def searched_corpora(settings: Settings) -> list[str]:
    """List the corpora whose stems queries should find.

    Those of ``promotion.gallery``; where that is empty, every corpus of the settings that has
    stems and was scanned.
    """
    if settings.promotion.gallery:
        return list(settings.promotion.gallery)
    names = settings.corpora_with_stems
    return [name for name in names if (settings.layout.tracks(name) / MANIFEST_NAME).is_file()]


def published_corpora(layout: DataLayout, model_id: str) -> list[str]:
    """List the corpora that were published with a model."""
    records = publication_folder(layout, model_id).glob(f"*/{MANIFEST_NAME}")
    return sorted(path.parent.name for path in records)


def gallery_gaps(layout: DataLayout, model_id: str, corpora: Sequence[str]) -> list[str]:
    """Say what a model's tables lack of some corpora, one phrase each; empty: nothing."""
    return [gap for corpus in corpora for gap in _gaps(layout, model_id, corpus)]


def publication_gaps(layout: DataLayout, model_id: str) -> list[str]:
    """Say where a model's tables are not what was published into them; empty: nowhere.

    Corpora that were never published with the model do not count.
    """
    return [
        gap
        for corpus in published_corpora(layout, model_id)
        for gap in _row_gaps(layout, model_id, corpus, _record(layout, model_id, corpus)["summary"])
    ]


def _gaps(layout: DataLayout, model_id: str, corpus: str) -> Iterator[str]:
    try:
        embedded = read_embedding_manifest(layout, model_id, corpus)
    except ArtifactError:
        yield f"{corpus} is not embedded with it"
        return
    scanned = read_manifest(layout.tracks(corpus), kinds.CORPUS_TRACKS)
    if scanned["fingerprint"] != embedded["identity"]["corpus_tracks"]:
        yield f"{corpus} has changed since it was embedded"
        return
    try:
        record = _record(layout, model_id, corpus)
    except ArtifactError:
        yield f"{corpus} is not published"
        return
    if record["identity"]["embeddings"] != embedded["fingerprint"]:
        yield f"{corpus} is published as it was before"
        return
    made = embedded["summary"]
    counts = {STEM_TABLE: made["gallery"], CHUNK_TABLE: made["chunks"]}
    yield from _row_gaps(layout, model_id, corpus, counts)


def _row_gaps(
    layout: DataLayout, model_id: str, corpus: str, counts: Mapping[str, Any]
) -> Iterator[str]:
    uri = database_uri(layout, model_id)
    for table in (STEM_TABLE, CHUNK_TABLE):
        rows = count_rows(uri, table, corpus)
        if rows != counts[table]:
            yield f"{table} holds {rows} of {counts[table]} rows of {corpus}"


def _record(layout: DataLayout, model_id: str, corpus: str) -> dict[str, Any]:
    return read_manifest(publication_folder(layout, model_id, corpus), kinds.PUBLICATION)
