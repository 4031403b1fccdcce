"""Galleries and embeddings written down by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml.retrieval.embeddings.files import Embeddings
from ml.retrieval.evaluation.ranks import Gallery


@pytest.fixture
def write_songs(write_corpus: Any, make_sine: Any) -> Callable[..., None]:
    """Write the corpus "songs": in each a bass and a guitar, with a tone of its own in both."""

    def write(count: int, bass: int, guitar: int) -> None:
        def stem(band: int, song: int) -> np.ndarray:
            return make_sine(band, 1.0) + make_sine(20 + song, 1.0)

        write_corpus(
            "songs",
            {
                f"song{i}": {"bass": ("bass", stem(bass, i)), "guitar": ("guitar", stem(guitar, i))}
                for i in range(count)
            },
        )

    return write


@pytest.fixture
def songs(write_songs: Callable[..., None]) -> None:
    """Four songs of a bass in band 2 and a guitar in band 8."""
    write_songs(4, bass=2, guitar=8)


@pytest.fixture(scope="session")
def make_gallery() -> Callable[..., Gallery]:
    """Stems "0", "1", … of the tracks given, by default one each."""

    def make(
        labels: Sequence[str | None],
        categories: Sequence[str | None],
        tracks: Sequence[str] | None = None,
    ) -> Gallery:
        ids = [str(stem) for stem in range(len(labels))]
        given = (ids, tracks or ids, labels, categories)
        stem_ids, songs, fine, coarse = (np.array(column, dtype=object) for column in given)
        return Gallery(stem_ids=stem_ids, tracks=songs, labels=fine, categories=coarse)

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
