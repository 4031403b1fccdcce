"""Label texts as vectors: the ``label_embeddings`` of a corpus, and ``TextVectors`` for queries.

``labels.parquet`` has the columns ``text``, ``category`` (the coarsest label it occurs under, null
for "music"), ``vector`` (fixed-size list of float32, unit norm) and ``encoder`` (name@fingerprint).
A text that is already on disk with the same encoder is taken over, not computed again, and
``TextVectors``, for programs that answer many queries, reads it from there too.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ml import kinds
from ml.artifacts import (
    MANIFEST_NAME,
    Artifact,
    ArtifactError,
    DataLayout,
    find_current,
    finish,
    read_manifest,
    write_aside,
)
from ml.corpora.table import read_corpus_tracks
from ml.labels.encoder import LabelEncoder, described_encoder
from ml.locks import lock
from ml.parquet import read_frame
from ml.tracks import MUSIC

TABLE_NAME = "labels.parquet"
_MAX_TEXTS = 4096
"""So many vectors a ``TextVectors`` keeps of its own; the oldest goes first."""


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
    described = described_encoder(encoder)
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
    """Read the condition of each text of a corpus: (dim,) float32, unit norm.

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


class TextVectors:
    """A label encoder that remembers; any thread may ask.

    Texts whose vectors a home holds already (``label_embeddings``) are read from there, so that the
    encoder's weights and their library, seconds of a cold start, are loaded for new texts only.
    Tokenizers do not bear two threads at once, so one text is encoded at a time.

    Args:
        encoder: what makes the vectors.
        layout: of the home whose ``label_embeddings`` may be used; None: of none.
    """

    def __init__(self, encoder: LabelEncoder, layout: DataLayout | None = None):
        self.name, self.dim = encoder.name, encoder.dim
        self.fingerprint = encoder.fingerprint
        self._encoder = encoder
        self._layout = layout
        self._stored: dict[str, np.ndarray] | None = None
        self._encoded: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts: (text, dim) float32, unit norm, in the order given.

        Raises:
            ValueError: a text is empty.
        """
        with self._lock:
            if self._stored is None:
                self._stored = _stored_vectors(self._layout, self.fingerprint)
            stored = self._stored
            new = [t for t in dict.fromkeys(texts) if t not in stored and t not in self._encoded]
            found = dict(zip(new, self._encoder.encode(new), strict=True)) if new else {}
            vectors = [stored.get(t, self._encoded.get(t, found.get(t))) for t in texts]
            self._remember(found)
        return np.array(vectors, dtype=np.float32).reshape(len(texts), self.dim)

    def _remember(self, found: dict[str, np.ndarray]) -> None:
        self._encoded |= found
        for text in list(self._encoded)[: max(0, len(self._encoded) - _MAX_TEXTS)]:
            del self._encoded[text]


def _categories(layout: DataLayout, name: str) -> dict[str, str | None]:
    """Map each text to the category that it first occurs under; by text, with "music"."""
    categories: dict[str, str | None] = {MUSIC: None}
    for labels in read_corpus_tracks(layout, name)["labels"].to_list():
        for text in labels:
            categories.setdefault(text, labels[0])
    return dict(sorted(categories.items()))


def _known_vectors(path: Path, tag: str) -> dict[str, np.ndarray]:
    """Read the vectors on disk that come from the encoder with this tag."""
    import polars as pl

    if not path.is_file():
        return {}
    table = read_frame(path).filter(pl.col("encoder") == tag)
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


def _stored_vectors(layout: DataLayout | None, fingerprint: str) -> dict[str, np.ndarray]:
    """Read (dim,) per text of the home's ``label_embeddings`` that come from an encoder."""
    found: dict[str, np.ndarray] = {}
    if layout is None:
        return found
    for path in sorted((layout.home / "labels").glob(f"*/{MANIFEST_NAME}")):
        try:
            found |= read_label_vectors(layout, path.parent.name, encoder_fingerprint=fingerprint)
        except ArtifactError:
            continue  # of another encoder or damaged: its texts are encoded
    return found
