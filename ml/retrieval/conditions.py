"""What a query is conditioned with: the text of a stem's label and its embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml.corpora.corpus import MUSIC, Stem
from ml.corpora.taxonomy import FOUR_CLASSES, four_class

CONDITIONINGS = ("fine", "coarse", "none")
"""``fine``: a stem's last label, ``coarse``: its first, ``none``: ``"music"`` for all."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the query of each stem is conditioned with."""

    texts: tuple[str, ...]
    """(stem,)"""
    vectors: np.ndarray | None
    """(stem, condition_dim) float32; None when no model takes any."""
    classes: np.ndarray
    """(stem,) int64 into ``FOUR_CLASSES``, for the predecessor's table of four."""

    def of(self, stems: slice) -> Conditions:
        """Those of some of the stems."""
        return Conditions(
            texts=self.texts[stems],
            vectors=None if self.vectors is None else self.vectors[stems],
            classes=self.classes[stems],
        )


def conditions_of(
    stems: Sequence[Stem], conditioning: str, label_vectors: Mapping[str, np.ndarray]
) -> Conditions:
    """Conditions of the stems that are looked for.

    Args:
        stems: the targets.
        conditioning: one of ``CONDITIONINGS``.
        label_vectors: (condition_dim,) per text; empty when no model takes any.

    Raises:
        ValueError: an unknown conditioning, or a label without a vector.
    """
    if conditioning not in CONDITIONINGS:
        expected = ", ".join(CONDITIONINGS)
        raise ValueError(f"conditioning is {conditioning!r}; expected one of: {expected}")
    texts = tuple(_text(stem, conditioning) for stem in stems)
    missing = sorted(set(texts) - label_vectors.keys())
    if label_vectors and missing:
        raise ValueError(
            f"{len(missing)} labels have no vector, {missing[0]!r} among them; "
            f"build the label embeddings of this corpus again"
        )
    labels = [() if conditioning == "none" else stem.labels for stem in stems]
    classes = [FOUR_CLASSES.index(four_class(labels_of_stem)) for labels_of_stem in labels]
    vectors = [label_vectors[text] for text in texts] if label_vectors else None
    return Conditions(
        texts=texts,
        vectors=None if vectors is None else np.asarray(vectors, dtype=np.float32),
        classes=np.asarray(classes, dtype=np.int64),
    )


def _text(stem: Stem, conditioning: str) -> str:
    if conditioning == "none":
        return MUSIC
    return stem.label if conditioning == "fine" else stem.category or MUSIC
