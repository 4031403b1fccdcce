"""Search in the tables of one model, at the version they have when opened.

Exact in memory for small tables, through the index for large ones (``ml.retrieval.gallery``).
Everything here may be called from several threads at once.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import ArtifactError
from ml.retrieval.database import open_table
from ml.retrieval.gallery import Gallery, open_gallery
from ml.retrieval.store import FORMAT_VERSION, STEM_TABLE
from ml.retrieval.table_description import count_values
from ml.retrieval.table_index import EXACT_ROWS

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
        self._stems = open_table(self.uri, STEM_TABLE)
        schema = self._stems.schema
        metadata = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
        _check_format(self.uri, metadata)
        self.model_id = metadata["model_id"]
        """Whose vectors these are."""
        self.dim: int = schema.field("vector").type.list_size
        """Width of a vector."""
        self.version: int = self._stems.version
        """Version of the stem table that is searched."""
        self._count = self._stems.count_rows()

    def __len__(self) -> int:
        return self._count

    def is_current(self) -> bool:
        """Whether the stem table has this version still; False too where it is gone."""
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
        excluded = set(exclude_tracks)
        hits: list[Hit] = []
        found: Counter[tuple[str, str]] = Counter()
        likely = k if per_track is None else 4 * k
        for score, row in self._gallery.ranked(vector, likely, where, exclude_tracks):
            track = (row["corpus"], row["track_id"])
            is_full = per_track is not None and found[track] >= per_track
            if is_full or row["track_id"] in excluded:
                continue
            found[track] += 1
            hits.append(Hit(score=score, row=row))
            if len(hits) == k:
                break
        return sorted(hits, key=lambda hit: (-hit.score, hit.row["key"]))

    def row(self, key: str) -> dict[str, Any] | None:
        """The columns of a stem without its vector; None: no stem of this key."""
        found = self._gallery.find([key]).get(key)
        return None if found is None else found[0]

    def vectors(self, keys: Sequence[str]) -> np.ndarray:
        """(key, dim) float32, unit norm.

        Raises:
            KeyError: a key is not in the table.
        """
        found = self._gallery.find(keys)
        vectors = [found[key][1] for key in keys]
        return np.stack(vectors) if vectors else np.zeros((0, self.dim), dtype=np.float32)

    def label_counts(self) -> dict[str, int]:
        """Label → stems whose finest label it is, sorted by label."""
        return dict(self._counts("label"))

    def corpora(self) -> dict[str, int]:
        """Corpus → its stems, sorted by name."""
        return dict(self._counts("corpus"))

    def _counts(self, column: str) -> dict[str, int]:
        with self._lock:
            if column not in self._counted:
                self._counted[column] = count_values(self._stems, column)
            return self._counted[column]

    @cached_property
    def _counted(self) -> dict[str, dict[str, int]]:
        return {}

    @property
    def _gallery(self) -> Gallery:
        with self._lock:
            return self._opened

    @cached_property
    def _opened(self) -> Gallery:
        return open_gallery(self._stems, exact_rows=self._exact_rows)

    @cached_property
    def _newest(self) -> Table:
        return open_table(self.uri, STEM_TABLE)


def _check_format(uri: str, metadata: dict[str, str]) -> None:
    version = metadata.get("format_version", "")
    if not version.isdigit() or not metadata.get("model_id"):
        raise ArtifactError(
            f"table {STEM_TABLE} in {uri} names no model in its metadata; it was not published "
            f"by: stems embed CORPUS"
        )
    if int(version) > FORMAT_VERSION:
        raise ArtifactError(
            f"table {STEM_TABLE} in {uri} has format version {version}, this program reads up to "
            f"{FORMAT_VERSION}; update the program"
        )
