"""Search in the tables of one model: the stems nearest to a vector, and rows beside them.

Up to ``EXACT_ROWS`` stems are held in memory, and a query is one matrix product: faster than
LanceDB's own scan, and the same on every machine. Larger tables stay on disk; what their index
finds is scored again from the vectors, so scores are exact cosines either way.

``StemTables`` searches the stems at the version the table has when opened; ``TableRows`` looks up
what queries need beside it: chunks of stems, the stems of a label, close keys. All may be called
from several threads at once.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ml import kinds
from ml.artifacts import ArtifactError
from ml.music.key import read_key
from ml.retrieval.embeddings.files import unit_rows, vectors_of
from ml.retrieval.tables.database import (
    checked_filter,
    count_values,
    open_table,
    read,
    reading,
    sql_text,
)
from ml.retrieval.tables.index import EXACT_ROWS, nearest, read_tuning
from ml.retrieval.tables.publish import BPM, CHUNK_TABLE, MUSICAL_KEY, STEM_TABLE
from ml.tracks import MUSIC

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import Table

Row = dict[str, Any]
"""The columns of ``stem_embeddings`` without the vector."""

_log = logging.getLogger(__name__)
_SPARE = 16
"""Rows fetched beyond those asked for: equal scores at the end are then put in order by key."""
_CENTROID_STEMS = 2000
_LISTED_KEYS = 20_000
_TEMPI = re.compile(r"(\d{1,4}(?:\.\d+)?)(?:\s*\.\.\s*(\d{1,4}(?:\.\d+)?))?")


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A stem found for a query vector."""

    score: float
    """Cosine, -1…1."""
    row: Row


@dataclass(frozen=True, kw_only=True)
class StemChunks:
    """The chunks in which a stem sounds."""

    start_s: np.ndarray
    """(chunk,) ascending."""
    vectors: np.ndarray
    """(chunk, dim) float32, unit norm."""


class StemTables:
    """The tables of one model, as they are when opened.

    Args:
        uri: the database (``stems table path``): a folder or a URL.
        exact_rows: up to so many stems are searched exactly, in memory.

    Raises:
        ArtifactError: it holds no stems, or a newer format.
    """

    def __init__(self, uri: str | Path, *, exact_rows: int = EXACT_ROWS):
        self.uri = str(uri)
        self._exact_rows = exact_rows
        self._lock = threading.RLock()
        self._counted: dict[str, dict[str, int]] = {}
        self._stems = open_table(self.uri, STEM_TABLE)
        schema = self._stems.schema
        metadata = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
        _check_format(self.uri, metadata)
        self.model_id = metadata["model_id"]
        """Whose vectors these are."""
        self.dim: int = schema.field("vector").type.list_size
        """Width of a vector."""
        self.columns = frozenset(schema.names)
        """Of the stems."""
        self.version: int = self._stems.version
        """Version of the stem table that is searched."""
        with reading():
            self._count = self._stems.count_rows()

    def __len__(self) -> int:
        return self._count

    def is_current(self) -> bool:
        """Tell whether the stem table has this version still; False too where it is gone."""
        try:
            with self._lock:
                self._newest.checkout_latest()
                return self._newest.version == self.version
        except (ValueError, RuntimeError, OSError):
            return False

    def search(
        self,
        vector: np.ndarray,
        k: int,
        *,
        where: str | None = None,
        exclude_tracks: Sequence[str] = (),
        per_track: int | None = None,
    ) -> list[Hit]:
        """Find the k stems of highest cosine, best first; ties in the order of their keys.

        Args:
            vector: (dim,) unit norm.
            k: how many; fewer come back when the filters leave fewer.
            where: an SQL condition on the columns of ``stem_embeddings``.
            exclude_tracks: track ids that must not be found.
            per_track: at most so many stems of one track.

        Raises:
            ValueError: LanceDB does not understand ``where``.
        """
        excluded = set(exclude_tracks)
        hits: list[Hit] = []
        taken: Counter[tuple[str, str]] = Counter()
        likely = k if per_track is None else 4 * k
        for score, row in self._search.ranked(vector, likely, where, exclude_tracks):
            track = (row["corpus"], row["track_id"])
            is_full = per_track is not None and taken[track] >= per_track
            if is_full or row["track_id"] in excluded:
                continue
            taken[track] += 1
            hits.append(Hit(score=score, row=row))
            if len(hits) == k:
                break
        return sorted(hits, key=lambda hit: (-hit.score, hit.row["key"]))

    def row(self, key: str) -> Row | None:
        """Look up the columns of a stem; None: no stem of this key."""
        found = self._search.find([key]).get(key)
        return None if found is None else found[0]

    def vectors(self, keys: Sequence[str]) -> np.ndarray:
        """Look up vectors: (key, dim) float32, unit norm.

        Raises:
            KeyError: a key is not in the table.
        """
        found = self._search.find(keys)
        vectors = [found[key][1] for key in keys]
        return np.stack(vectors) if vectors else np.zeros((0, self.dim), dtype=np.float32)

    def label_counts(self) -> dict[str, int]:
        """Count the stems of each finest label, sorted by label."""
        return dict(self._counts("label"))

    def corpora(self) -> dict[str, int]:
        """Count the stems of each corpus, sorted by name."""
        return dict(self._counts("corpus"))

    def _counts(self, column: str) -> dict[str, int]:
        with self._lock:
            if column not in self._counted:
                self._counted[column] = count_values(self._stems, column)
            return self._counted[column]

    @property
    def _search(self) -> _Search:
        with self._lock:
            return self._opened

    @cached_property
    def _opened(self) -> _Search:
        if self._count <= self._exact_rows:
            return _ExactSearch(self._stems)
        return _IndexSearch(self._stems, exact_rows=self._exact_rows)

    @cached_property
    def _newest(self) -> Table:
        return open_table(self.uri, STEM_TABLE)


class TableRows:
    """Rows of the tables of one model, as they are when first asked for."""

    def __init__(self, uri: str):
        self._uri = uri
        self._centroids: dict[str, np.ndarray] = {}

    def close_keys(self, key: str) -> list[str]:
        """List up to three keys that are spelt nearly so, of the first in the table."""
        keys = read(self._stems.search().select(["key"]).limit(_LISTED_KEYS))["key"]
        return get_close_matches(key, keys.to_pylist(), cutoff=0.4)

    def chunks(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], StemChunks]:
        """Look up the chunks of some stems.

        Args:
            keys: (corpus, stem_id) of each.

        Returns:
            Those that are there.
        """
        if not keys:
            return {}
        corpora, stem_ids = (
            ", ".join(sorted({sql_text(text) for text in texts}))
            for texts in zip(*keys, strict=True)
        )
        where = f"corpus IN ({corpora}) AND stem_id IN ({stem_ids})"
        columns = ["corpus", "stem_id", "start_s", "vector"]
        query = self._chunks.search().where(where).select(columns).limit(None)
        table = read(query).sort_by("start_s")
        vectors, start_s = vectors_of(table), table["start_s"].to_numpy()
        owners = zip(table["corpus"].to_pylist(), table["stem_id"].to_pylist(), strict=True)
        rows: dict[tuple[str, str], list[int]] = {}
        for row, owner in enumerate(owners):
            rows.setdefault(owner, []).append(row)
        return {
            key: StemChunks(start_s=start_s[rows[key]], vectors=vectors[rows[key]])
            for key in keys
            if key in rows
        }

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """All labels of all levels that stems have, sorted; ``"music"`` when some have none."""
        table = read(self._stems.search().select(["labels"]).limit(None))
        column = table["labels"].combine_chunks()
        texts = set(column.flatten().unique().to_pylist())
        if (column.value_lengths().to_numpy(zero_copy_only=False) == 0).any():
            texts.add(MUSIC)
        return tuple(sorted(texts))

    def count(self, label: str) -> int:
        """Count the stems of a label."""
        return self._stems.count_rows(label_filter(label))

    def centroid(self, label: str) -> np.ndarray:
        """Average the stems of a label, the first 2,000 in the table: (dim,) unit norm."""
        if label not in self._centroids:
            query = self._stems.search().where(label_filter(label)).select(["vector"])
            vectors = vectors_of(read(query.limit(_CENTROID_STEMS)))
            mean = vectors.mean(axis=0, dtype=np.float64)
            self._centroids[label] = unit_rows(mean[None], f"stems of {label}")[0]
        return self._centroids[label]

    @cached_property
    def _stems(self) -> Table:
        return open_table(self._uri, STEM_TABLE)

    @cached_property
    def _chunks(self) -> Table:
        return open_table(self._uri, CHUNK_TABLE)


def label_filter(label: str) -> str:
    """Write an SQL condition: the stem has this label, at any level."""
    has = f"array_has(labels, {sql_text(label)})"
    return f"({has} OR label = {sql_text(MUSIC)})" if label == MUSIC else has


def music_filter(tables: StemTables, bpm: str | None, musical_key: str | None) -> str | None:
    """Write an SQL condition: the stem has such a tempo and key.

    Args:
        tables: that it is for.
        bpm: one tempo, or two with dots between: ``118..124``; None: any, or none.
        musical_key: such as ``A minor``, ``Bb major``, ``F#m``; None: any, or none.

    Raises:
        ValueError: these are none, or the table was published before it had tempo and key.
    """
    parts = []
    if bpm is not None:
        low, high = _read_tempi(bpm)
        parts.append(f"{BPM} BETWEEN {low} AND {high}")
    if musical_key is not None:
        parts.append(f"{MUSICAL_KEY} = {sql_text(read_key(musical_key))}")
    if parts and not {BPM, MUSICAL_KEY} <= tables.columns:
        raise ValueError(
            f"the stems of {tables.uri} have no tempo and key: they were published before there "
            f"were these columns; publish each corpus again with: stems embed CORPUS (or stems "
            f"index FOLDER)"
        )
    return " AND ".join(parts) or None


def _read_tempi(text: str) -> tuple[float, float]:
    """Read ``118..124``, or ``120``, which half a beat more or less is too."""
    found = _TEMPI.fullmatch(text.strip())
    low, high = (float(found[1]), float(found[2] or found[1])) if found else (1.0, 0.0)
    if low > high:
        raise ValueError(f"{text!r} is no range of tempi; expected one such as 118..124")
    return (low - 0.5, high + 0.5) if low == high else (low, high)


class _Search(Protocol):
    """The stems of one table, and how they are searched."""

    def ranked(
        self, vector: np.ndarray, k: int, where: str | None, exclude_tracks: Sequence[str]
    ) -> Iterator[tuple[float, Row]]:
        """Yield cosine and row of stems that pass the filters, best first, on and on.

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
        """Look up row and vector of each key that is there."""
        ...


class _ExactSearch:
    """All stems in memory."""

    def __init__(self, table: Table):
        self._table = table
        rows = read(table.search().limit(None)).sort_by("key")
        self._vectors = vectors_of(rows)
        self._rows: list[Row] = rows.drop_columns(["vector"]).to_pylist()
        self._place = {row["key"]: i for i, row in enumerate(self._rows)}

    def ranked(
        self, vector: np.ndarray, k: int, where: str | None, exclude_tracks: Sequence[str]
    ) -> Iterator[tuple[float, Row]]:
        """Yield equal scores in the order of their keys."""
        del k  # all are at hand
        excluded = set(exclude_tracks)
        allowed = None if where is None else self._matches(where)
        scores = self._vectors @ vector.astype(np.float32)
        for i in np.argsort(-scores, kind="stable"):
            row = self._rows[i]
            if (allowed is None or row["key"] in allowed) and row["track_id"] not in excluded:
                yield float(scores[i]), row

    def find(self, keys: Sequence[str]) -> dict[str, tuple[Row, np.ndarray]]:
        """Look up row and vector of each key that is there."""
        places = {key: self._place[key] for key in keys if key in self._place}
        return {key: (self._rows[i], self._vectors[i]) for key, i in places.items()}

    def _matches(self, where: str) -> set[str]:
        condition = checked_filter(self._table, where)
        found = read(self._table.search().where(condition).select(["key"]))
        return set(found["key"].to_pylist())


class _IndexSearch:
    """Stems on disk, found through the vector index."""

    def __init__(self, table: Table, *, exact_rows: int):
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
        """Yield stems; beyond the first k later ones may be better than earlier ones."""
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
        """Look up row and vector of each key that is there."""
        if not keys:
            return {}
        listed = ", ".join(sql_text(key) for key in sorted(set(keys)))
        found = read(self._table.search().where(f"key IN ({listed})"))
        rows = found.drop_columns(["vector"]).to_pylist()
        by_key = {row["key"]: (row, v) for row, v in zip(rows, vectors_of(found), strict=True)}
        return {key: by_key[key] for key in keys if key in by_key}

    def _probes(self, condition: str | None) -> int | None:
        """Choose how many partitions to visit; None: score every row that passes.

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


def _scored(found: pa.Table, vector: np.ndarray) -> list[tuple[float, Row]]:
    """Score what an index found by exact cosines, best first; equal scores by key."""
    scores = vectors_of(found) @ vector.astype(np.float32)
    rows = found.drop_columns(["vector", "_distance"]).to_pylist()
    pairs = [(float(score), row) for score, row in zip(scores, rows, strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1]["key"]))


def _check_format(uri: str, metadata: dict[str, str]) -> None:
    version = metadata.get("format_version", "")
    if not version.isdigit() or not metadata.get("model_id"):
        raise ArtifactError(
            f"table {STEM_TABLE} in {uri} names no model in its metadata; it was not published "
            f"by: stems embed CORPUS"
        )
    if int(version) > kinds.PUBLICATION.format_version:
        raise ArtifactError(
            f"table {STEM_TABLE} in {uri} has format version {version}, this program reads up to "
            f"{kinds.PUBLICATION.format_version}; update the program"
        )
