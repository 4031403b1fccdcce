"""The LanceDB tables that queries search: one database per model, published from its embeddings.

A database holds ``stem_embeddings`` (one row a stem) and ``chunk_embeddings`` (one row a sounding
chunk of it), published from the Parquet embeddings. Publishing a corpus is *one* merge in each
table: it updates, inserts, and deletes what has left the corpus, in one version; files pass by in
batches. The record of it lies in ``lancedb/<model_id>/published/<corpus>``, wherever the database.
Stems come with tempo and key (``ml.music.tracks``) where these were heard; a table from before
there were such columns gets them at its next publication.

Stem ids repeat across corpora, and LanceDB 0.40 takes a single column as primary key, so rows
carry a ``key``: ``<corpus>/<stem_id>``, for chunks with ``@<start_s>``. The key is declared in the
schema at creation; without it, two processes that insert the same rows at once duplicate them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ml import kinds
from ml.artifacts import Artifact, ArtifactError, DataLayout, find_current, fingerprint, finish
from ml.locks import lock
from ml.music.fit import Music
from ml.music.tracks import TrackMusic, build_track_music, read_track_music
from ml.parquet import read_frame
from ml.plain import first_line
from ml.retrieval.embeddings.files import CHUNKS, GALLERY, read_embedding_manifest, stem_schema
from ml.retrieval.tables.database import (
    commit,
    database_uri,
    ensure_table,
    find_table,
    is_url,
    reading,
    sql_text,
)
from ml.retrieval.tables.index import optimize_tables

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import Table

STEM_TABLE, CHUNK_TABLE = "stem_embeddings", "chunk_embeddings"
BPM, MUSICAL_KEY = "bpm", "musical_key"
"""Columns of the stem table; ``key`` is the stem's name."""
_PRIMARY_KEY = {b"lance-schema:unenforced-primary-key:position": b"1"}
_BATCH_ROWS = 8192


def publish_corpus(layout: DataLayout, model_id: str, corpus: str) -> Artifact:
    """Bring a model's tables up to date with its embeddings of a corpus, and index what is large.

    Returns:
        The record of the publication, ``lancedb/<model_id>/published/<corpus>``; reused when the
        tables hold these embeddings already.

    Raises:
        ArtifactError: there are no embeddings, the tables are of another shape, or the object
            store cannot be reached.
    """
    manifest = read_embedding_manifest(layout, model_id, corpus)
    made = manifest["summary"]
    counts = {CHUNK_TABLE: made["chunks"], STEM_TABLE: made["gallery"]}
    music = read_track_music(layout, corpus)
    record = publication_folder(layout, model_id, corpus)
    uri = database_uri(layout, model_id)
    identity = {
        "model_id": model_id,
        "corpus": corpus,
        "embeddings": manifest["fingerprint"],
        "place": _place(layout, uri),
        "music": fingerprint({track_id: row.content for track_id, row in music.items()}),
    }
    current = find_current(record, identity, kinds.PUBLICATION)
    if current is not None and all(count_rows(uri, t, corpus) == n for t, n in counts.items()):
        return replace(current, summary={**current.summary, "uri": uri})
    folder = layout.embeddings(model_id, corpus)
    for name, file_name in ((CHUNK_TABLE, CHUNKS), (STEM_TABLE, GALLERY)):
        rows = folder / file_name
        merge_corpus(uri, name, rows, corpus=corpus, model_id=model_id, music=music)
    optimize_tables(uri)
    with lock(layout.lancedb / model_id / ".lock", waits=True):
        return finish(record, identity, kinds.PUBLICATION, summary={"uri": uri, **counts})


def hear_gallery(
    layout: DataLayout, model_ids: Iterable[str], corpus: str, *, workers: int = 1
) -> None:
    """Listen for tempo and key of all tracks that models' galleries of a corpus have stems of.

    Raises:
        ArtifactError: there are no embeddings, or no ``corpus_tracks``.
        LockedError: another process does.
    """
    galleries = (layout.embeddings(model_id, corpus) / GALLERY for model_id in model_ids)
    tracks = {i for path in galleries for i in read_frame(path)["track_id"].unique()}
    if tracks:
        build_track_music(corpus, layout, tracks, workers=workers)


def publication_folder(layout: DataLayout, model_id: str, corpus: str = "") -> Path:
    """Say where the record of a publication lies; without a corpus, those of all corpora."""
    return layout.lancedb / model_id / "published" / corpus


class Rows(Protocol):
    """Rows of a corpus; a ``pyarrow.Table`` is one, or what lets them pass by."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of ``gallery.parquet`` or ``chunks.parquet``."""
        ...

    def to_batches(self) -> Iterable[pa.RecordBatch]:
        """Make them; anew for each try when others write at the same time."""
        ...


def merge_corpus(
    uri: str,
    name: str,
    rows: Rows | Path,
    *,
    corpus: str,
    model_id: str,
    music: Mapping[str, TrackMusic] | None = None,
) -> None:
    """Make ``rows`` all that a table holds of a corpus, in one version; made if need be.

    Args:
        uri: the database.
        name: the table.
        rows: all of this corpus; of a Parquet file a few thousand are in memory at a time.
        corpus: whose rows are replaced.
        model_id: whose vectors these are; kept with the table.
        music: what was heard in its tracks, by their ids.

    Raises:
        ArtifactError: the table is there with other columns, another dimension or another model's
            vectors; others write to it without a pause; or the file is missing or damaged.
    """
    import pyarrow as pa

    unreadable: list[ArtifactError] = []
    if isinstance(rows, Path):
        schema, batches = _open(rows, unreadable)
    else:
        schema, batches = rows.schema, rows.to_batches
    keyed = _keyed_schema(schema, model_id)
    table = ensure_table(uri, name, keyed)
    _add_music_columns(table, keyed)
    _check_schema(table, keyed, uri)
    merge = (
        table.merge_insert("key")
        .when_matched_update_all()
        .when_not_matched_insert_all()
        .when_not_matched_by_source_delete(f"corpus = {sql_text(corpus)}")
    )

    def write() -> None:
        keyed_rows = (_with_key(batch, keyed, music or {}) for batch in batches())
        merge.execute(pa.RecordBatchReader.from_batches(keyed, keyed_rows))

    try:
        commit(table, write)
    except (pa.ArrowException, OSError, RuntimeError):
        if not unreadable:
            raise
        raise unreadable[0] from None


def _open(
    path: Path, unreadable: list[ArtifactError]
) -> tuple[pa.Schema, Callable[[], Iterator[pa.RecordBatch]]]:
    """Open a Parquet file; what makes its batches notes there why it cannot."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from pq.ParquetFile(path).iter_batches(batch_size=_BATCH_ROWS)
        except (pa.ArrowException, OSError) as error:
            # Of what comes out of the merge one cannot tell what it was.
            unreadable.append(_damaged(path, error))
            raise

    try:
        return pq.read_schema(path), batches
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def count_rows(uri: str, name: str, corpus: str) -> int:
    """Count the rows of a corpus in a table; 0 where there is no such table."""
    table = find_table(uri, name)
    if table is None:
        return 0
    with reading():
        return table.count_rows(f"corpus = {sql_text(corpus)}")


def _place(layout: DataLayout, uri: str) -> str:
    """Give a database an address that stays when the home is moved."""
    is_inside = not is_url(uri) and Path(uri).is_relative_to(layout.home)
    return Path(uri).relative_to(layout.home).as_posix() if is_inside else uri


def _damaged(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{path} is missing or damaged ({first_line(error)}); delete {path.parent} and embed the "
        f"corpus again"
    )


def _check_schema(table: Table, schema: pa.Schema, uri: str) -> None:
    present, wanted = table.schema, schema.metadata[b"model_id"].decode()
    model_id = (present.metadata or {}).get(b"model_id", b"").decode()
    if present.equals(schema) and model_id == wanted:
        return
    raise ArtifactError(
        f"table {table.name} in {uri} has other columns or vectors than those of model {wanted} "
        f"(its model: {model_id or 'none named'}; its vectors: {present.field('vector').type}; its "
        f"columns: {', '.join(present.names)}); remove it and publish again: stems embed CORPUS"
    )


def _keyed_schema(schema: pa.Schema, model_id: str) -> pa.Schema:
    """Build the columns of a table: ``key`` in front; in the metadata model and query."""
    import pyarrow as pa

    from ml.retrieval.tables.embedding_function import table_metadata

    has_start, dim = "start_s" in schema.names, schema.field("vector").type.list_size
    columns = stem_schema(dim, has_start=has_start)
    field = pa.field("key", pa.string(), nullable=False, metadata=_PRIMARY_KEY)
    metadata = {"model_id": model_id, "format_version": str(kinds.PUBLICATION.format_version)}
    music = [] if has_start else [pa.field(BPM, pa.float64()), pa.field(MUSICAL_KEY, pa.string())]
    metadata |= table_metadata(model_id, dim)
    return pa.schema([field, *columns, *music], metadata=metadata)


def _add_music_columns(table: Table, schema: pa.Schema) -> None:
    """Give a table from before there were columns of tempo and key these columns, empty."""

    def missing() -> list[pa.Field]:
        names = (BPM, MUSICAL_KEY)
        return [schema.field(n) for n in names if n in schema.names and n not in table.schema.names]

    if missing():
        commit(table, lambda: table.add_columns(missing()))  # another may have come before


def _with_key(
    rows: pa.RecordBatch, schema: pa.Schema, music: Mapping[str, TrackMusic]
) -> pa.RecordBatch:
    import pyarrow as pa

    parts = zip(rows["corpus"].to_pylist(), rows["stem_id"].to_pylist(), strict=True)
    made: dict[str, list[Any]] = {"key": [f"{corpus}/{stem_id}" for corpus, stem_id in parts]}
    if "start_s" in schema.names:
        starts = zip(made["key"], rows["start_s"].to_pylist(), strict=True)
        made["key"] = [f"{key}@{start:.6f}" for key, start in starts]
    if BPM in schema.names:
        stems = zip(rows["track_id"].to_pylist(), rows["stem_id"].to_pylist(), strict=True)
        heard = [music[track].of_stem(stem) if track in music else Music() for track, stem in stems]
        made |= {BPM: [one.bpm for one in heard], MUSICAL_KEY: [one.key for one in heard]}
    columns = [
        pa.array(made[field.name], field.type)
        if field.name in made
        else rows[field.name].cast(field.type)
        for field in schema
    ]
    return pa.record_batch(columns, schema=schema)
