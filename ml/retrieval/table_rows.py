"""What queries look up beside the search: chunks of stems, the stems of a label, close keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ml.corpora.corpus import MUSIC
from ml.retrieval.database import open_table, sql_text
from ml.retrieval.embedding_files import vectors_of
from ml.retrieval.metrics import unit_rows
from ml.retrieval.store import CHUNK_TABLE, STEM_TABLE

if TYPE_CHECKING:
    from lancedb.table import Table

_CENTROID_STEMS = 2000
_LISTED_KEYS = 20_000


@dataclass(frozen=True, kw_only=True)
class StemChunks:
    """The chunks in which a stem sounds."""

    start_s: np.ndarray
    """(chunk,) ascending."""
    vectors: np.ndarray
    """(chunk, dim) float32, unit norm."""


class TableRows:
    """Rows of the tables of one model, as they are when first asked for.

    Args:
        uri: the database.
    """

    def __init__(self, uri: str):
        self._uri = uri
        self._centroids: dict[str, np.ndarray] = {}

    def close_keys(self, key: str) -> list[str]:
        """Up to three keys that are spelt nearly so, of the first in the table."""
        keys = self._stems.search().select(["key"]).limit(_LISTED_KEYS).to_arrow()["key"]
        return get_close_matches(key, keys.to_pylist(), cutoff=0.4)

    def chunks(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], StemChunks]:
        """The chunks of some stems.

        Args:
            keys: (corpus, stem_id) of each.

        Returns:
            What was found of them.
        """
        if not keys:
            return {}
        corpora, stem_ids = (
            ", ".join(sorted({sql_text(text) for text in texts}))
            for texts in zip(*keys, strict=True)
        )
        where = f"corpus IN ({corpora}) AND stem_id IN ({stem_ids})"
        columns = ["corpus", "stem_id", "start_s", "vector"]
        found = self._chunks.search().where(where).select(columns).limit(None).to_arrow()
        found = found.sort_by("start_s")
        vectors, start_s = vectors_of(found), found["start_s"].to_numpy()
        owners = list(zip(found["corpus"].to_pylist(), found["stem_id"].to_pylist(), strict=True))
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
        found = self._stems.search().select(["labels"]).limit(None).to_arrow()["labels"]
        column = found.combine_chunks()
        texts = set(column.flatten().unique().to_pylist())
        if (column.value_lengths().to_numpy(zero_copy_only=False) == 0).any():
            texts.add(MUSIC)
        return tuple(sorted(texts))

    def centroid(self, label: str) -> np.ndarray:
        """(dim,) unit norm: the mean of the stems of a label, of the first 2,000 in the table."""
        if label not in self._centroids:
            query = self._stems.search().where(label_filter(label)).select(["vector"])
            vectors = vectors_of(query.limit(_CENTROID_STEMS).to_arrow())
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
    """An SQL condition: the stem has this label, at any level."""
    has = f"array_has(labels, {sql_text(label)})"
    return f"({has} OR label = {sql_text(MUSIC)})" if label == MUSIC else has
