"""Galleries and embeddings written down by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest

from ml.retrieval.embeddings.files import Embeddings
from ml.retrieval.evaluation.ranks import Gallery


@pytest.fixture(scope="session")
def make_gallery() -> Callable[..., Gallery]:
    """Stems "0", "1", … of the tracks given, by default one each."""

    def make(
        labels: Sequence[str | None],
        categories: Sequence[str | None],
        tracks: Sequence[str] | None = None,
    ) -> Gallery:
        ids = [str(stem) for stem in range(len(labels))]
        columns = (ids, tracks or ids, labels, categories)
        names = ("stem_ids", "tracks", "labels", "categories")
        return Gallery(
            **{n: np.array(c, dtype=object) for n, c in zip(names, columns, strict=True)}
        )

    return make


@pytest.fixture(scope="session")
def make_embeddings() -> Callable[..., Embeddings]:
    """Vectors of stems "0", "1", … and of a query for each."""

    def table(vectors: np.ndarray) -> pa.Table:
        flat = pa.array(vectors.astype(np.float32).ravel())
        return pa.table(
            {
                "stem_id": [str(stem) for stem in range(len(vectors))],
                "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
            }
        )

    def make(gallery: np.ndarray, queries: np.ndarray) -> Embeddings:
        return Embeddings(manifest={}, gallery=table(gallery), queries=table(queries))

    return make
