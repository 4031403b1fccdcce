"""The LanceDB tables that queries search: one database per model, and which model is champion.

``lancedb/<model_id>/`` holds ``stem_embeddings`` (one row a stem) and ``chunk_embeddings`` (one
row a sounding chunk of it), published from the Parquet embeddings. Publishing a corpus is *one*
merge in each table: it updates, inserts, and deletes what has left the corpus, in one version.

Stem ids repeat across corpora, and LanceDB 0.40 takes a single column as primary key, so rows
carry a ``key``: ``<corpus>/<stem_id>``, for chunks with ``@<start_s>``. The key is declared in the
schema at creation; without it, two processes that insert the same rows at once duplicate them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml.artifacts import Artifact, ArtifactError, DataLayout, find_current, finish
from ml.retrieval.embedding_files import (
    CHUNKS,
    GALLERY,
    read_embedding_manifest,
    read_table,
    stem_schema,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import Table

FORMAT_VERSION = 1
STEM_TABLE, CHUNK_TABLE = "stem_embeddings", "chunk_embeddings"
_PRIMARY_KEY = {b"lance-schema:unenforced-primary-key:position": b"1"}


@dataclass(frozen=True, kw_only=True)
class TableDescription:
    """A table at a glance."""

    name: str
    version: int
    rows: int
    rows_by_corpus: Mapping[str, int]
    columns: Mapping[str, str]
    """Name → Arrow type."""


def database_uri(layout: DataLayout, model_id: str) -> str:
    """Where a model's tables lie: what ``lancedb.connect`` takes."""
    return str(layout.lancedb / model_id)


def publish_corpus(layout: DataLayout, model_id: str, corpus: str) -> Artifact:
    """Bring a model's tables up to date with its embeddings of a corpus.

    Returns:
        The record of the publication, ``lancedb/<model_id>/published/<corpus>``; reused when the
        tables hold these embeddings already.

    Raises:
        ArtifactError: there are no embeddings, or the tables are of another shape.
    """
    manifest = read_embedding_manifest(layout, model_id, corpus)
    made = manifest["summary"]
    counts = {CHUNK_TABLE: made["chunks"], STEM_TABLE: made["gallery"]}
    identity = {"model_id": model_id, "corpus": corpus, "embeddings": manifest["fingerprint"]}
    record = layout.lancedb / model_id / "published" / corpus
    uri = database_uri(layout, model_id)
    found = find_current(record, identity, format_version=FORMAT_VERSION)
    if found is not None and all(count_rows(uri, t, corpus) == n for t, n in counts.items()):
        return found
    folder = layout.embeddings(model_id, corpus)
    for name, file_name in ((CHUNK_TABLE, CHUNKS), (STEM_TABLE, GALLERY)):
        merge_corpus(uri, name, read_table(folder / file_name), corpus=corpus, model_id=model_id)
    return finish(record, identity, format_version=FORMAT_VERSION, summary={"uri": uri, **counts})


def merge_corpus(uri: str, name: str, rows: pa.Table, *, corpus: str, model_id: str) -> None:
    """Make ``rows`` all that a table holds of a corpus, in one version; made if need be.

    Args:
        uri: the database.
        name: the table.
        rows: columns of ``gallery.parquet`` or ``chunks.parquet``, all of this corpus.
        corpus: whose rows are replaced.
        model_id: whose vectors these are; kept with the table.

    Raises:
        ArtifactError: the table is there with other columns or another dimension.
    """
    import lancedb

    keyed = _with_key(rows, model_id)
    try:
        table = lancedb.connect(uri).create_table(name, schema=keyed.schema, exist_ok=True)
    except ValueError as error:
        raise ArtifactError(
            f"table {name} in {uri} has other columns or vectors than those of model {model_id} "
            f"({error}); remove that folder and publish again"
        ) from None
    (
        table.merge_insert("key")
        .when_matched_update_all()
        .when_not_matched_insert_all()
        .when_not_matched_by_source_delete(f"corpus = {sql_text(corpus)}")
        .execute(keyed)
    )


def count_rows(uri: str, name: str, corpus: str) -> int:
    """How many rows a table holds of a corpus; 0 where there is no such table."""
    import lancedb

    database = lancedb.connect(uri)
    if name not in database.list_tables().tables:
        return 0
    return database.open_table(name).count_rows(f"corpus = {sql_text(corpus)}")


def describe_tables(uri: str) -> list[TableDescription]:
    """What the tables of a database hold.

    Raises:
        ArtifactError: there are none.
    """
    import lancedb

    names = lancedb.connect(uri).list_tables().tables if Path(uri).is_dir() else []
    if not names:
        raise ArtifactError(f"{uri} holds no tables; publish a corpus with: stems embed CORPUS")
    return [_described(lancedb.connect(uri).open_table(name)) for name in names]


def sql_text(value: str) -> str:
    """A string literal for a filter."""
    return "'" + value.replace("'", "''") + "'"


def _described(table: Table) -> TableDescription:
    corpora = table.search().select(["corpus"]).to_arrow()["corpus"].to_pylist()
    return TableDescription(
        name=table.name,
        version=table.version,
        rows=table.count_rows(),
        rows_by_corpus=dict(sorted(Counter(corpora).items())),
        columns={field.name: str(field.type) for field in table.schema},
    )


def _with_key(rows: pa.Table, model_id: str) -> pa.Table:
    """The rows with their ``key`` in front, and the model in the schema's metadata."""
    import pyarrow as pa

    parts = zip(rows["corpus"].to_pylist(), rows["stem_id"].to_pylist(), strict=True)
    keys = [f"{corpus}/{stem_id}" for corpus, stem_id in parts]
    if "start_s" in rows.column_names:
        starts = rows["start_s"].to_pylist()
        keys = [f"{key}@{start:.6f}" for key, start in zip(keys, starts, strict=True)]
    dim = rows.schema.field("vector").type.list_size
    columns = stem_schema(dim, has_start="start_s" in rows.column_names)
    field = pa.field("key", pa.string(), nullable=False, metadata=_PRIMARY_KEY)
    metadata = {"model_id": model_id, "format_version": str(FORMAT_VERSION)}
    schema = pa.schema([field, *columns], metadata=metadata)
    return pa.table([pa.array(keys, pa.string()), *rows.cast(columns).columns], schema=schema)
