"""Indices of large tables: made, kept up to date, and set from the recall that they reach.

Up to ``EXACT_ROWS`` rows there are none: a scan is faster, and exact. Above, the stems get IVF_FLAT
(vectors grouped around centroids, kept as they are: scores stay exact, only rows can be missed)
and indices on the columns that users filter by. How many groups a search must visit is *measured*
after indexing, beside the exact result, and stored with the table in the metadata of its
``vector`` column, so that whoever opens the table searches with the same care.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from ml.retrieval.embeddings.files import vectors_of
from ml.retrieval.tables.database import commit, open_table, read, table_names

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.query import LanceVectorQueryBuilder
    from lancedb.table import Table

_log = logging.getLogger(__name__)

EXACT_ROWS = 20_000
"""Up to so many rows search is exact, without an index."""
WANTED_RECALL, FIRST = 0.95, 10
"""Share of the exact first ten that a search must find."""
ROWS_A_PARTITION = 1000
METADATA_KEY = b"stems:index"
SCALAR_INDICES = {
    "stem_embeddings": {
        "key": "BTree",
        "track_id": "BTree",
        "corpus": "Bitmap",
        "label": "Bitmap",
        "category": "Bitmap",
        "labels": "LabelList",
    },
    "chunk_embeddings": {"stem_id": "BTree"},
}
"""Table → column → kind of index; chunks are only looked up by their stem."""
_QUERIES = 64
_SCAN_ROWS = 8192
_TRAINED_ON = 64
"""Rows a partition that its centroids are trained on; 256 take four times as long and find no
more."""
_GREW, _SHRANK, _CHANGED = 2.0, 0.5, 0.1


@dataclass(frozen=True, kw_only=True)
class IndexTuning:
    """How the vector index of a table is searched, and what that reaches."""

    partitions: int
    """Groups of vectors."""
    trained_rows: int
    """Rows when the groups were made."""
    probes: int
    """Groups that a search visits."""
    recall: float
    """Share of the exact first ten that it found then."""
    rows: int
    """Rows when that was measured."""


def optimize_tables(uri: str, *, exact_rows: int = EXACT_ROWS) -> None:
    """Join small files of a database's tables, index what is large, measure the index.

    Readers are not disturbed; rows that came since are found without it, only slower. What other
    processes write meanwhile is kept.

    Args:
        uri: the database.
        exact_rows: up to so many rows a table goes without indices.

    Raises:
        ArtifactError: the database cannot be reached, or others write without a pause.
    """
    for name in table_names(uri):
        table = open_table(uri, name)
        commit(table, table.optimize)
        if name in SCALAR_INDICES and table.count_rows() > exact_rows:
            _index_columns(table, SCALAR_INDICES[name])
            if "key" in SCALAR_INDICES[name]:
                _index_vectors(table)


def read_tuning(table: Table) -> IndexTuning | None:
    """Read how a table's vector index is searched; None without an index."""
    stored = (table.schema.field("vector").metadata or {}).get(METADATA_KEY)
    if stored is None or not any("vector" in index.columns for index in table.list_indices()):
        return None
    return IndexTuning(**json.loads(stored))


def nearest(
    table: Table,
    vector: np.ndarray,
    limit: int,
    *,
    probes: int | None,
    where: str | None = None,
    columns: Sequence[str] = (),
) -> pa.Table:
    """Search the rows nearest to a vector by cosine, with their vectors.

    Args:
        table: of stems.
        vector: (dim,) unit norm.
        limit: at most so many rows.
        probes: partitions of the index to visit; None: every row.
        where: an SQL condition that holds for all rows found.
        columns: columns to return beside ``vector``.
    """
    query = cast("LanceVectorQueryBuilder", table.search(vector)).distance_type("cosine")
    query = query.limit(limit).select([*columns, "vector", "_distance"])
    if where is not None:
        query = query.where(where)
    if probes is None:
        query = query.bypass_vector_index()
    else:
        query = query.minimum_nprobes(probes).maximum_nprobes(probes)
    return read(query)


def _index_columns(table: Table, kinds: dict[str, str]) -> None:
    from lancedb import index

    there = {column for made in table.list_indices() for column in made.columns}
    for column, kind in kinds.items():
        if column not in there:
            config = getattr(index, kind)()
            commit(table, lambda c=column, config=config: table.create_index(c, config=config))


def _index_vectors(table: Table) -> None:
    from lancedb.index import IvfFlat

    rows, tuning = table.count_rows(), read_tuning(table)
    if tuning is None or not _SHRANK < rows / tuning.trained_rows < _GREW:
        partitions = max(1, round(rows / ROWS_A_PARTITION))
        config = IvfFlat(
            distance_type="cosine",
            num_partitions=partitions,
            sample_rate=_TRAINED_ON,
            max_iterations=20,
        )
        _log.info("%s: indexing %d rows in %d partitions", table.name, rows, partitions)
        commit(table, lambda: table.create_index("vector", config=config))
        _tune(table, partitions, trained_rows=rows)
    elif abs(rows / tuning.rows - 1) > _CHANGED:
        _tune(table, tuning.partitions, trained_rows=tuning.trained_rows)


def _tune(table: Table, partitions: int, *, trained_rows: int) -> None:
    """Measure how many partitions must be visited, and store it with the table."""
    queries = _halfway_queries(table)
    wanted = _tenth_best(table, queries)
    probes, recall = 0, 0.0
    while recall < WANTED_RECALL and probes < partitions:
        probes = min(partitions, max(probes + 1, round(1.4 * probes)))
        recall = _recall(table, queries, wanted, probes)
    tuning = IndexTuning(
        partitions=partitions,
        trained_rows=trained_rows,
        probes=probes,
        recall=round(recall, 4),
        rows=table.count_rows(),
    )
    metadata = {METADATA_KEY.decode(): json.dumps(asdict(tuning))}
    commit(table, lambda: table.update_field_metadata({"path": "vector", "metadata": metadata}))
    _log.info("%s: %s", table.name, tuning)


def _halfway_queries(table: Table) -> np.ndarray:
    """Make queries (query, dim) of unit norm, each halfway between two stems.

    Predictions do not lie on stems, so stems themselves would be queries too easy; between two
    stems the nearest rows are spread over more partitions than for any prediction near one.
    """
    rows = table.count_rows()
    random = np.random.default_rng(0)
    chosen = random.choice(rows, size=min(rows, 2 * _QUERIES), replace=False)
    vectors = vectors_of(table.take_offsets(sorted(chosen.tolist())).select(["vector"]).to_arrow())
    vectors = random.permutation(vectors)
    queries = vectors[: len(vectors) // 2] + vectors[len(vectors) // 2 :][: len(vectors) // 2]
    norms = np.linalg.norm(queries, axis=1, keepdims=True)
    return (queries / np.maximum(norms, 1e-6)).astype(np.float32)


def _tenth_best(table: Table, queries: np.ndarray) -> np.ndarray:
    """Find the exact tenth best cosine: (query,); the table passes by in batches."""
    best = np.full((len(queries), FIRST), -np.inf, dtype=np.float32)
    for batch in table.search().select(["vector"]).to_batches(batch_size=_SCAN_ROWS):
        vectors = batch["vector"].flatten().to_numpy().reshape(batch.num_rows, -1)
        scores = np.concatenate([best, queries @ vectors.T], axis=1)
        best = -np.partition(-scores, FIRST - 1, axis=1)[:, :FIRST]
    return best.min(axis=1)


def _recall(table: Table, queries: np.ndarray, wanted: np.ndarray, probes: int) -> float:
    """Measure the share of rows that score like the exact first ten (equal ones may stand in)."""
    hits = 0
    for query, least in zip(queries, wanted, strict=True):
        scores = vectors_of(nearest(table, query, FIRST, probes=probes)) @ query
        hits += int((scores >= least - 1e-6).sum())
    return hits / (FIRST * len(queries))
