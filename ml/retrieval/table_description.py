"""What the tables of a database hold, at a glance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml.artifacts import ArtifactError
from ml.retrieval.database import connect, stored_bytes, table_names
from ml.retrieval.table_index import IndexTuning, read_tuning

if TYPE_CHECKING:
    from lancedb.table import Table


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
    indices: tuple[IndexDescription, ...] = ()
    """None: every search reads all rows."""
    tuning: IndexTuning | None = None
    """How the vector index is searched, and the recall measured then."""
    stored_bytes: int = 0
    """All its files, those of earlier versions included."""


def describe_tables(uri: str) -> list[TableDescription]:
    """What the tables of a database hold.

    Raises:
        ArtifactError: there are none.
    """
    names = table_names(uri)
    if not names:
        raise ArtifactError(f"{uri} holds no tables; publish a corpus with: stems embed CORPUS")
    database = connect(uri)
    return [_described(uri, database.open_table(name)) for name in names]


def count_values(table: Table, column: str) -> dict[str, int]:
    """Value → rows that have it, sorted; the table passes by in batches."""
    counts: Counter[str] = Counter()
    for batch in table.search().select([column]).to_batches():
        for pair in batch[column].value_counts().to_pylist():
            counts[pair["values"]] += pair["counts"]
    return dict(sorted(counts.items()))


def _described(uri: str, table: Table) -> TableDescription:
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
                rows=found.num_indexed_rows,
                unindexed_rows=found.num_unindexed_rows,
            )
            for index, found in stats
            if found is not None
        ),
        tuning=read_tuning(table),
        stored_bytes=stored_bytes(uri, table.name),
    )
