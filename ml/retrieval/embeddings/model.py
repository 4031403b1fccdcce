"""What a model must offer to be embedded with and queried, and what its queries ask for.

An ``EmbeddingModel`` turns log-mels into vectors; ``Conditions`` hold what each query asks for: its
text, the text's vector, its class. ``condition_rows`` is the one place that says which of these a
model takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from ml.artifacts import ArtifactError
from ml.labels.taxonomy import FOUR_CLASSES, four_class
from ml.tracks import CONDITIONINGS, MUSIC, Stem


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
        """Keep those of some of the stems."""
        return Conditions(
            texts=self.texts[stems],
            vectors=None if self.vectors is None else self.vectors[stems],
            classes=self.classes[stems],
        )


class Frontend(Protocol):
    """A log-mel: waveform (batch, samples) to (batch, mel_bin, frame)."""

    def __call__(self, waveform: Tensor, /) -> Tensor:
        """Compute the standardised log-mel."""
        ...

    def fingerprint(self) -> str:
        """Identify the function: equal for two frontends that compute the same."""
        ...


class EmbeddingModel(Protocol):
    """A trained model (``StemJepa``) or a baseline (``SpectrumModel``, ``ClapAudioModel``)."""

    @property
    def name(self) -> str:
        """Name in tables."""
        ...

    @property
    def model_id(self) -> str:
        """Fingerprint of its content; names its embeddings on disk."""
        ...

    @property
    def phase(self) -> str:
        """``jepa``, or another word for a model that ignores conditions."""
        ...

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        ...

    @property
    def part_shares(self) -> Sequence[float]:
        """What the parts of a vector are worth (``weighted_parts``); (1.0,): it has no parts."""
        ...

    @property
    def condition_dim(self) -> int | None:
        """Width of the corpus's conditions; None when it takes none of these."""
        ...

    @property
    def rate_hz(self) -> int:
        """Sample rate of waveforms."""
        ...

    @property
    def chunk_s(self) -> float:
        """Length of a chunk in seconds."""
        ...

    @property
    def label_encoder(self) -> Mapping[str, Any]:
        """``name``, ``dim``, ``fingerprint`` of what it was trained with; empty: none."""
        ...

    @property
    def training_tracks(self) -> Sequence[Mapping[str, Any]]:
        """``corpus``, ``track_id``, ``content_hash`` of each track it was trained on."""
        ...

    @property
    def log_mel(self) -> Frontend:
        """Its frontend."""
        ...

    def gallery_vectors(self, mel: Tensor) -> Tensor:
        """Embed stems: (batch, mel_bin, frame) → (batch, dim), not of unit norm."""
        ...

    def query_vectors(
        self, mel: Tensor, condition: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Embed what mixes lack: (batch, mel_bin, frame) → (batch, dim), not of unit norm.

        ``condition`` is (batch, condition_dim), ``classes`` (batch,) into ``FOUR_CLASSES``.
        """
        ...


@runtime_checkable
class EncodesLabels(Protocol):
    """A model with a label encoder of its own; the corpus's conditions are not for it."""

    def encode_labels(self, texts: Sequence[str]) -> np.ndarray:
        """Encode labels as ``query_vectors`` takes them: (text, width) float32."""
        ...


def conditions_of(
    stems: Sequence[Stem], conditioning: str, label_vectors: Mapping[str, np.ndarray]
) -> Conditions:
    """Make the conditions of the stems that are looked for.

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


def condition_rows(model: EmbeddingModel, conditions: Conditions) -> np.ndarray | None:
    """Pick or make what a model's queries take as ``condition``.

    Returns:
        (stem, width) float32; None for a model that takes none.
    """
    if isinstance(model, EncodesLabels):
        return model.encode_labels(conditions.texts)
    return None if model.condition_dim is None else conditions.vectors


def check_label_encoder(model: EmbeddingModel, encoder: Mapping[str, Any]) -> None:
    """Refuse conditions by another label encoder than the model was trained with.

    Args:
        model: the model.
        encoder: ``name``, ``dim`` and ``fingerprint`` of what made the conditions.

    Raises:
        ArtifactError: they differ; names both.
    """
    trained = model.label_encoder
    if model.condition_dim is None or not trained:
        return
    keys = ("name", "dim", "fingerprint")
    if any(trained.get(key) != encoder.get(key) for key in keys):
        found, expected = (
            f"{e.get('name')} ({e.get('dim')} dimensions, {str(e.get('fingerprint'))[:12]})"
            for e in (encoder, trained)
        )
        raise ArtifactError(
            f"the labels are encoded by {found}, but model {model.name} ({model.model_id}) was "
            f"trained with {expected}; encode them with that, or use a model trained with this one"
        )
