"""Exact search in a model's tables: rows in memory, one matrix product a query.

Up to some tens of thousands of stems this is faster than LanceDB's own exact scan, and gives the
same result on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import ArtifactError
from ml.retrieval.embedding_files import vectors_of
from ml.retrieval.store import CHUNK_TABLE, FORMAT_VERSION, STEM_TABLE, sql_text

if TYPE_CHECKING:
    from lancedb.table import Table


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A stem found for a query vector."""

    score: float
    """Cosine, -1…1."""
    row: dict[str, Any]
    """The columns of ``stem_embeddings`` without the vector."""


class StemTables:
    """The tables of one model, as they are when first searched.

    Args:
        uri: the database (``stems table path``).

    Raises:
        ArtifactError: it holds no stems, or a newer format.
    """

    def __init__(self, uri: str | Path):
        self.uri = str(uri)
        self._stems = self._open(STEM_TABLE)
        schema = self._stems.schema
        metadata = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
        if not metadata.get("format_version", "").isdigit() or not metadata.get("model_id"):
            raise ArtifactError(
                f"table {STEM_TABLE} in {self.uri} names no model in its metadata; it was not "
                f"published by: stems embed CORPUS"
            )
        if int(metadata["format_version"]) > FORMAT_VERSION:
            raise ArtifactError(
                f"table {STEM_TABLE} in {self.uri} has format version "
                f"{metadata['format_version']}, this program reads up to {FORMAT_VERSION}; "
                f"update the program"
            )
        self.model_id = metadata["model_id"]
        """Whose vectors these are."""
        self.dim = schema.field("vector").type.list_size
        """Width of a vector."""
        self.version = self._stems.version
        """Version of the stem table that is searched."""

    def __len__(self) -> int:
        return len(self._rows)

    def search(
        self,
        vector: np.ndarray,
        k: int,
        *,
        where: str | None = None,
        exclude_tracks: Sequence[str] = (),
        per_track: int | None = None,
    ) -> list[Hit]:
        """The k stems of highest cosine, best first; ties in the order of their keys.

        Args:
            vector: (dim,) unit norm.
            k: how many; fewer come back when the filters leave fewer.
            where: an SQL condition on the columns of ``stem_embeddings``.
            exclude_tracks: track ids that must not be found.
            per_track: at most so many stems of one track.

        Raises:
            ValueError: LanceDB does not understand ``where``.
        """
        allowed = np.ones(len(self), dtype=bool) if where is None else self._matches(where)
        excluded = set(exclude_tracks)
        scores = self._vectors @ vector.astype(np.float32)
        hits: list[Hit] = []
        found: dict[tuple[str, str], int] = {}
        for i in np.argsort(-scores, kind="stable"):
            row = self._rows[i]
            track = (row["corpus"], row["track_id"])
            is_full = per_track is not None and found.get(track, 0) >= per_track
            if not allowed[i] or row["track_id"] in excluded or is_full:
                continue
            found[track] = found.get(track, 0) + 1
            hits.append(Hit(score=float(scores[i]), row=row))
            if len(hits) == k:
                break
        return hits

    def best_starts(self, vector: np.ndarray, keys: Sequence[str]) -> dict[str, float]:
        """Per stem, by its key: where its chunk of highest cosine begins, in seconds."""
        pairs = {key: _split(self._by_key[key]) for key in keys}
        if not pairs:
            return {}
        corpora = ", ".join(sorted({sql_text(corpus) for corpus, _ in pairs.values()}))
        stem_ids = ", ".join(sorted({sql_text(stem) for _, stem in pairs.values()}))
        where = f"corpus IN ({corpora}) AND stem_id IN ({stem_ids})"
        columns = ["corpus", "stem_id", "start_s", "vector"]
        chunks = self._open(CHUNK_TABLE).search().where(where).select(columns).to_arrow()
        scores = vectors_of(chunks) @ vector.astype(np.float32)
        owners = [_split(row) for row in chunks.select(columns[:2]).to_pylist()]
        starts = chunks["start_s"].to_pylist()
        best: dict[tuple[str, str], float] = {}
        for i in np.lexsort((starts, -scores)):
            best.setdefault(owners[i], starts[i])
        return {key: best[pair] for key, pair in pairs.items() if pair in best}

    @cached_property
    def _vectors(self) -> np.ndarray:
        return vectors_of(self._table)

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return self._table.drop_columns(["vector"]).to_pylist()

    @cached_property
    def _by_key(self) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in self._rows}

    @cached_property
    def _table(self) -> Any:
        return self._stems.to_arrow().sort_by("key")

    def _matches(self, where: str) -> np.ndarray:
        try:
            found = self._stems.search().where(where).select(["key"]).to_arrow()
        except ValueError as error:
            columns = ", ".join(name for name in self._stems.schema.names if name != "vector")
            raise ValueError(
                f"the filter {where!r} is not understood ({error}); expected an SQL condition "
                f"such as category = 'guitar' on the columns {columns}"
            ) from None
        keys = set(found["key"].to_pylist())
        return np.array([row["key"] in keys for row in self._rows], dtype=bool)

    def _open(self, name: str) -> Table:
        import lancedb

        is_local = "://" not in self.uri
        if not is_local or Path(self.uri).is_dir():
            database = lancedb.connect(self.uri)
            if name in database.list_tables().tables:
                return database.open_table(name)
        raise ArtifactError(
            f"{self.uri} holds no table {name}; publish a corpus with: stems embed CORPUS"
        )


def _split(row: dict[str, Any]) -> tuple[str, str]:
    return row["corpus"], row["stem_id"]
