"""The ``label_embeddings`` of a corpus: the condition of every label text that occurs in it.

``labels.parquet`` has the columns ``text``, ``category`` (the coarsest label it occurs under, null
for "music"), ``vector`` (fixed-size list of float32, unit norm) and ``encoder`` (name@fingerprint).
A text that is already on disk with the same encoder is taken over, not computed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ml import kinds
from ml.artifacts import (
    Artifact,
    ArtifactError,
    DataLayout,
    find_current,
    finish,
    read_manifest,
    write_aside,
)
from ml.corpora.table import read_corpus_tracks
from ml.labels.encoder import LabelEncoder
from ml.locks import lock
from ml.tracks import MUSIC

TABLE_NAME = "labels.parquet"


def build_label_embeddings(name: str, layout: DataLayout, encoder: LabelEncoder) -> Artifact:
    """Encode every label of every stem of a corpus, and "music".

    Args:
        name: the corpus; its ``corpus_tracks`` must exist.
        layout: where artifacts lie.
        encoder: what makes the vectors.

    Raises:
        ArtifactError: the corpus has no ``corpus_tracks`` yet.
    """
    folder = layout.labels(name)
    categories = _categories(layout, name)
    described = {"name": encoder.name, "dim": encoder.dim, "fingerprint": encoder.fingerprint}
    identity = {"corpus": name, "categories": categories, "encoder": described}
    found = find_current(folder, identity, kinds.LABEL_EMBEDDINGS)
    if found is not None and (folder / TABLE_NAME).is_file():
        return found
    with lock(folder / ".lock"):
        tag = f"{encoder.name}@{encoder.fingerprint}"
        known = _known_vectors(folder / TABLE_NAME, tag)
        missing = [text for text in categories if text not in known]
        known |= dict(zip(missing, encoder.encode(missing), strict=True))
        _write(folder / TABLE_NAME, categories, known, tag)
        return finish(
            folder,
            identity,
            kinds.LABEL_EMBEDDINGS,
            summary={"texts": len(categories), "encoded": len(missing), "encoder": encoder.name},
            encoder=described,
        )


def read_label_vectors(
    layout: DataLayout, name: str, *, encoder_fingerprint: str | None = None
) -> dict[str, np.ndarray]:
    """The condition of each text of a corpus: (dim,) float32, unit norm.

    Args:
        layout: where artifacts lie.
        name: the corpus.
        encoder_fingerprint: of the encoder that the vectors must come from; None: any.

    Raises:
        ArtifactError: they were not built, or come from another encoder.
    """
    folder = layout.labels(name)
    made_by = f"stems labels build {name}"
    manifest = read_manifest(folder, kinds.LABEL_EMBEDDINGS)
    encoder = manifest["encoder"]
    if encoder_fingerprint not in (None, encoder["fingerprint"]):
        raise ArtifactError(
            f"{folder} comes from label encoder {encoder['name']} "
            f"({encoder['fingerprint'][:12]}), expected {encoder_fingerprint[:12]}; "
            f"set label_encoder.name and make it again with: {made_by}"
        )
    vectors = _known_vectors(folder / TABLE_NAME, f"{encoder['name']}@{encoder['fingerprint']}")
    if not vectors:
        raise ArtifactError(f"{folder} does not hold what its manifest says; run: {made_by}")
    return vectors


def _categories(layout: DataLayout, name: str) -> dict[str, str | None]:
    """Text → the category that it first occurs under; sorted by text, with "music"."""
    categories: dict[str, str | None] = {MUSIC: None}
    for labels in read_corpus_tracks(layout, name)["labels"].to_list():
        for text in labels:
            categories.setdefault(text, labels[0])
    return dict(sorted(categories.items()))


def _known_vectors(path: Path, tag: str) -> dict[str, np.ndarray]:
    """Vectors on disk that come from the encoder with this tag."""
    import polars as pl

    if not path.is_file():
        return {}
    table = pl.read_parquet(path).filter(pl.col("encoder") == tag)
    return dict(zip(table["text"].to_list(), table["vector"].to_numpy().copy(), strict=True))


def _write(
    path: Path, categories: Mapping[str, Any], vectors: Mapping[str, np.ndarray], tag: str
) -> None:
    import polars as pl

    table = pl.DataFrame(
        {
            "text": list(categories),
            "category": pl.Series(list(categories.values()), dtype=pl.String),
            "vector": np.stack([vectors[text] for text in categories]),  # (text, dim)
            "encoder": [tag] * len(categories),
        }
    )
    with write_aside(path) as aside:
        table.write_parquet(aside)
