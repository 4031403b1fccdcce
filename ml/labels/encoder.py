"""What a label encoder is: instrument texts in, unit vectors out.

``LabelEncoder`` is the protocol, ``TextEncoder`` the one class that has it, around a function that
encodes one text. Which encoders there are: ``ml.labels.encoders``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

EncodeOne = Callable[[str], np.ndarray]
"""A text → (dim,) float32, unit norm."""


class LabelEncoder(Protocol):
    """A frozen function from texts to unit vectors."""

    name: str
    """What ``build_label_encoder`` calls it."""
    dim: int
    """Length of a vector."""

    @property
    def fingerprint(self) -> str:
        """Equal for encoders that give the same vectors: 64 hexadecimal digits."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts: (text, dim) float32, unit norm, in the order given.

        Raises:
            ValueError: a text is empty.
        """
        ...


def described_encoder(encoder: LabelEncoder) -> dict[str, Any]:
    """Describe an encoder as artifacts name what their conditions come from."""
    return {"name": encoder.name, "dim": encoder.dim, "fingerprint": encoder.fingerprint}


class TextEncoder:
    """A label encoder that loads its weights when it first encodes.

    Each text is encoded alone, so its vector does not depend on the texts beside it, to the last
    bit.

    Args:
        name: what ``build_label_encoder`` calls it.
        dim: length of a vector.
        load: loads the weights.
        fingerprint: of the weights, without loading them.
    """

    def __init__(
        self, name: str, dim: int, load: Callable[[], EncodeOne], fingerprint: Callable[[], str]
    ) -> None:
        self.name, self.dim = name, dim
        self._load, self._fingerprint = load, fingerprint
        self._encode_one: EncodeOne | None = None

    @property
    def fingerprint(self) -> str:
        """Equal for encoders that give the same vectors: 64 hexadecimal digits."""
        return self._fingerprint()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts: (text, dim) float32, unit norm; equal texts are encoded once.

        Raises:
            ArtifactError: the weights cannot be read.
            ValueError: a text is empty; says which.
        """
        for place, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"text {place} of {len(texts)} is empty; expected an instrument")
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        if self._encode_one is None:
            self._encode_one = self._load()
        vectors = {text: self._encode_one(text) for text in dict.fromkeys(texts)}
        return np.stack([vectors[text] for text in texts])
