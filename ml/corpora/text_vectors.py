"""Instruments in words as vectors, for programs that answer many queries from several threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout
from ml.labels.encoder import LabelEncoder

_MAX_TEXTS = 4096
"""So many vectors are kept; the oldest goes first."""


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
        """Texts → (text, dim) float32, unit norm, in the order given.

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


def _stored_vectors(layout: DataLayout | None, fingerprint: str) -> dict[str, np.ndarray]:
    """(dim,) per text of the home's ``label_embeddings`` that come from an encoder."""
    from ml.corpora.label_embeddings import read_label_vectors

    found: dict[str, np.ndarray] = {}
    if layout is None:
        return found
    for path in sorted((layout.home / "labels").glob(f"*/{MANIFEST_NAME}")):
        try:
            found |= read_label_vectors(layout, path.parent.name, encoder_fingerprint=fingerprint)
        except ArtifactError:
            continue  # of another encoder or damaged: its texts are encoded
    return found
