"""The protocol of a label encoder: instrument texts in, unit vectors out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np


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
        """Texts → (text, dim) float32, unit norm, in the order given.

        Raises:
            ValueError: a text is empty.
        """
        ...


def encode_distinct(
    texts: Sequence[str], dim: int, encode_one: Callable[[str], np.ndarray]
) -> np.ndarray:
    """Encode each distinct text once.

    Args:
        texts: instruments in words.
        dim: width of a vector.
        encode_one: a text → (dim,) float32, unit norm.

    Returns:
        (text, dim) float32, in the order given.

    Raises:
        ValueError: a text is empty; says which.
    """
    for place, text in enumerate(texts):
        if not text.strip():
            raise ValueError(f"text {place} of {len(texts)} is empty; expected an instrument")
    if not texts:
        return np.zeros((0, dim), dtype=np.float32)
    vectors = {text: encode_one(text) for text in dict.fromkeys(texts)}
    return np.stack([vectors[text] for text in texts])
