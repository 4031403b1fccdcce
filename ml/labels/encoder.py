"""What a label encoder is: instrument texts in, unit vectors out.

``LabelEncoder`` is the protocol, ``TextEncoder`` the one class that has it, around a function that
encodes one text. Which encoders there are: ``ml.labels.encoders``. One that another package
brings is held to the protocol by ``CheckedEncoder``.
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
        licence: of the weights.
        load: loads the weights.
        fingerprint: of the weights, without loading them.
    """

    def __init__(
        self,
        name: str,
        dim: int,
        licence: str,
        load: Callable[[], EncodeOne],
        fingerprint: Callable[[], str],
    ) -> None:
        self.name, self.dim, self.licence = name, dim, licence
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


class CheckedEncoder:
    """An encoder of another package, whose vectors are looked at before they are believed.

    Args:
        name: what it is called here.
        encoder: what the package made.

    Raises:
        ValueError: it lacks something of ``LabelEncoder`` or says no ``licence`` of its weights, or
            calls itself otherwise.
    """

    def __init__(self, name: str, encoder: LabelEncoder) -> None:
        expected = {"name": str, "dim": int, "licence": str, "fingerprint": str}
        for field, kind in expected.items():
            if not isinstance(value := getattr(encoder, field, None), kind):
                raise ValueError(
                    f"label encoder {name!r} has {field} = {value!r}; expected {kind.__name__}"
                )
        if encoder.name != name or encoder.dim < 1:
            raise ValueError(
                f"label encoder {name!r} calls itself {encoder.name!r} and has {encoder.dim} "
                "dimensions; expected its own name and 1 or more"
            )
        self.name, self.dim = name, encoder.dim
        self.licence: str = getattr(encoder, "licence")  # noqa: B009 - no part of the protocol
        self._encoder = encoder

    @property
    def fingerprint(self) -> str:
        """Equal for encoders that give the same vectors."""
        return self._encoder.fingerprint

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts: (text, dim) float32, unit norm.

        Raises:
            ValueError: it gave something else.
        """
        vectors = np.asarray(self._encoder.encode(texts), dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=-1)
        if vectors.shape != (len(texts), self.dim) or not np.allclose(norms, 1, atol=1e-3):
            raise ValueError(
                f"label encoder {self.name!r} made vectors of shape {vectors.shape} and norms "
                f"{norms.min(initial=np.inf):.3g} to {norms.max(initial=-np.inf):.3g}; expected "
                f"({len(texts)}, {self.dim}) of norm 1"
            )
        return vectors
