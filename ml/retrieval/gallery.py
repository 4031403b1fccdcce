"""The stems of one table as a stream, best first: exactly from memory, or through the index.

Up to ``EXACT_ROWS`` stems are held in memory, and a query is one matrix product: faster than
LanceDB's own scan, and the same on every machine. Larger tables stay on disk; what their index
finds is scored again from the vectors, so scores are exact cosines either way.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ml.retrieval.database import first_line, sql_text
from ml.retrieval.embedding_files import vectors_of
from ml.retrieval.table_index import EXACT_ROWS, nearest, read_tuning

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import Table

_log = logging.getLogger(__name__)

Row = dict[str, Any]
_SPARE = 16
"""Rows fetched beyond those asked for: equal scores at the end are then put in order by key."""
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`")


class Gallery(Protocol):
    """What ``StemTables`` searches in."""

    def ranked(
        self, vector: np.ndarray, k: int, where: str | None, exclude_tracks: Sequence[str]
    ) -> Iterator[tuple[float, Row]]:
        """Cosine and row of stems that pass the filters, best first, on and on.

        Args:
            vector: (dim,) unit norm.
            k: how many are likely to be taken.
            where: an SQL condition.
            exclude_tracks: track ids left out.

        Raises:
            ValueError: ``where`` is not understood.
        """
        ...

    def find(self, keys: Sequence[str]) -> dict[str, tuple[Row, np.ndarray]]:
        """Row and vector of each key that is there."""
        ...


def open_gallery(table: Table, *, exact_rows: int = EXACT_ROWS) -> Gallery:
    """The gallery that suits the size of a table."""
    if table.count_rows() <= exact_rows:
        return MemoryGallery(table)
    return IndexedGallery(table, exact_rows=exact_rows)


class MemoryGallery:
    """All stems in memory."""

    def __init__(self, table: Table):
        self._table = table
        rows = table.to_arrow().sort_by("key")
        self._vectors = vectors_of(rows)
        self._rows: list[Row] = rows.drop_columns(["vector"]).to_pylist()
        self._place = {row["key"]: i for i, row in enumerate(self._rows)}

    def ranked(
        self, vector: np.ndarray, k: int, where: str | None, exclude_tracks: Sequence[str]
    ) -> Iterator[tuple[float, Row]]:
        """See ``Gallery``; equal scores in the order of their keys."""
        del k  # all are at hand
        excluded = set(exclude_tracks)
        allowed = None if where is None else self._matches(where)
        scores = self._vectors @ vector.astype(np.float32)
        for i in np.argsort(-scores, kind="stable"):
            row = self._rows[i]
            if (allowed is None or row["key"] in allowed) and row["track_id"] not in excluded:
                yield float(scores[i]), row

    def find(self, keys: Sequence[str]) -> dict[str, tuple[Row, np.ndarray]]:
        """See ``Gallery``."""
        places = {key: self._place[key] for key in keys if key in self._place}
        return {key: (self._rows[i], self._vectors[i]) for key, i in places.items()}

    def _matches(self, where: str) -> set[str]:
        condition = checked_filter(self._table, where)
        found = self._table.search().where(condition).select(["key"]).to_arrow()
        return set(found["key"].to_pylist())


class IndexedGallery:
    """Stems on disk, found through the vector index."""

    def __init__(self, table: Table, *, exact_rows: int = EXACT_ROWS):
        self._table = table
        self._exact_rows = exact_rows
        self._count = table.count_rows()
        self._columns = [name for name in table.schema.names if name != "vector"]
        self._tuning = read_tuning(table)
        if self._tuning is None:
            _log.warning(
                "%s has %d stems and no index, every query reads them all; make one with: "
                "stems table optimize",
                table.name,
                self._count,
            )

    def ranked(
        self, vector: np.ndarray, k: int, where: str | None, exclude_tracks: Sequence[str]
    ) -> Iterator[tuple[float, Row]]:
        """See ``Gallery``; later ones may be better than earlier ones beyond the first k."""
        condition = None if where is None else checked_filter(self._table, where)
        probes = self._probes(condition)
        if exclude_tracks:
            ids = ", ".join(sql_text(track) for track in sorted(set(exclude_tracks)))
            others = f"track_id NOT IN ({ids})"
            condition = others if condition is None else f"{condition} AND {others}"
        partitions = self._tuning.partitions if self._tuning else 0
        limit, seen = k + _SPARE, set[str]()
        while True:
            found = nearest(
                self._table,
                vector,
                limit,
                probes=probes,
                where=condition,
                columns=self._columns,
            )
            for score, row in _scored(found, vector):
                if row["key"] not in seen:
                    seen.add(row["key"])
                    yield score, row
            is_short = len(found) < limit
            if is_short and (probes is None or probes == partitions):
                return
            if probes is not None:  # a short answer: the rest may lie in other partitions
                probes = partitions if is_short else min(partitions, 2 * probes)
            limit = limit if is_short else 4 * limit

    def find(self, keys: Sequence[str]) -> dict[str, tuple[Row, np.ndarray]]:
        """See ``Gallery``."""
        if not keys:
            return {}
        listed = ", ".join(sql_text(key) for key in sorted(set(keys)))
        found = self._table.search().where(f"key IN ({listed})").to_arrow()
        rows = found.drop_columns(["vector"]).to_pylist()
        by_key = {row["key"]: (row, v) for row, v in zip(rows, vectors_of(found), strict=True)}
        return {key: by_key[key] for key in keys if key in by_key}

    def _probes(self, condition: str | None) -> int | None:
        """Partitions to visit; None: score every row that passes.

        The rows that pass a filter are spread thin, so the nearest of them lie in more partitions:
        few are scored one by one, for many the number of partitions grows as their share shrinks.
        """
        if self._tuning is None:
            return None
        if condition is None:
            return self._tuning.probes
        allowed = self._table.count_rows(condition)
        if allowed <= self._exact_rows:
            return None
        wanted = round(2 * self._tuning.probes * self._count / allowed)
        return min(self._tuning.partitions, wanted)


def checked_filter(table: Table, where: str) -> str:
    """A condition in parentheses, safe to join with others.

    Raises:
        ValueError: LanceDB does not understand it; names the columns there are.
    """
    # LanceDB reads a condition up to where it ends and ignores what follows: "a = 1) OR b" is "a".
    condition = f"({where}\n)"
    try:
        if not _is_one_condition(where):
            raise ValueError("one condition with its parentheses closed is expected")
        table.count_rows(condition)
    except (ValueError, RuntimeError) as error:  # the latter for what only rows show, as types
        columns = ", ".join(name for name in table.schema.names if name != "vector")
        raise ValueError(
            f"the filter {where!r} is not understood ({first_line(error)}); expected an SQL "
            f"condition such as category = 'guitar' on the columns {columns}"
        ) from None
    return condition


def _is_one_condition(where: str) -> bool:
    bare = _QUOTED.sub("", where)
    depth = 0
    for character in bare:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return False
    return depth == 0 and ";" not in bare


def _scored(found: pa.Table, vector: np.ndarray) -> list[tuple[float, Row]]:
    """Exact cosine and row of what an index found, best first; equal scores by key."""
    scores = vectors_of(found) @ vector.astype(np.float32)
    rows = found.drop_columns(["vector", "_distance"]).to_pylist()
    pairs = [(float(score), row) for score, row in zip(scores, rows, strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1]["key"]))
