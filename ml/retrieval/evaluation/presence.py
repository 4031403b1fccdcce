"""Whether training has met a label: the same text, the same in other words, or not (zero-shot).

Riou et al. (arXiv:2411.19806v2, section IV-B and Fig. 2) colour instruments so. They sorted labels
by hand; here a label is "in other words" when the label encoder puts a training label near it, and
that label and the similarity are reported beside, so that everybody can judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml import kinds
from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, read_json
from ml.corpora.label_embeddings import TextVectors
from ml.labels.encoder import LabelEncoder
from ml.tracks import MUSIC

SAME_TEXT, OTHER_WORDS, ZERO_SHOT, NO_LABEL = "same-text", "other-words", "zero-shot", "no-label"
PRESENCES = (SAME_TEXT, OTHER_WORDS, ZERO_SHOT, NO_LABEL)
"""``no-label``: the query was conditioned with "music", which says nothing of the instrument."""
OTHER_WORDS_SIMILARITY = 0.75
"""Cosine from which a training label counts as the same in other words.

Chosen on MiniLM: of 32 pairs such as "sax" and "saxophone" or "synth bass" and "bass synthesizer"
half lie above ("contrabass" and "double bass" at 0.30 never would); of the 44 instruments of the
taxonomy 13 have another one above, mostly "cello section" to "cello". Not measured for CLAP.
"""


@dataclass(frozen=True, kw_only=True)
class LabelPresence:
    """What training knows of a label."""

    presence: str
    """One of ``PRESENCES``."""
    nearest: str | None
    """The training label with the highest similarity; None when training had no labels."""
    similarity: float | None
    """Its cosine with the label by the label encoder, -1…1."""


def label_presences(
    labels: Iterable[str],
    training_labels: Sequence[str],
    vectors: Mapping[str, np.ndarray],
    *,
    threshold: float = OTHER_WORDS_SIMILARITY,
) -> dict[str, LabelPresence]:
    """Say what training knows of each label.

    Args:
        labels: texts that were asked for.
        training_labels: texts of the training set, all levels.
        vectors: (dim,) of unit norm for each text of both but ``"music"``.
        threshold: similarity from which a label counts as known in other words, 0…1.

    Raises:
        ValueError: a threshold that is no cosine, or a text without a vector.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the similarity of other words is {threshold}; expected 0…1")
    asked, known = set(labels), sorted(set(training_labels) - {MUSIC})
    missing = sorted(asked.union(known) - {MUSIC} - vectors.keys())
    if missing:
        raise ValueError(
            f"{len(missing)} labels have no vector, {missing[0]!r} among them; "
            f"encode the labels of the query and of the training set with one label encoder"
        )
    known_vectors = np.array([vectors[text] for text in known])
    return {label: _presence(label, known, known_vectors, vectors, threshold) for label in asked}


def _presence(
    label: str,
    known: Sequence[str],
    known_vectors: np.ndarray,
    vectors: Mapping[str, np.ndarray],
    threshold: float,
) -> LabelPresence:
    if label == MUSIC:
        return LabelPresence(presence=NO_LABEL, nearest=None, similarity=None)
    if label in known:
        return LabelPresence(presence=SAME_TEXT, nearest=label, similarity=1.0)
    if not known:
        return LabelPresence(presence=ZERO_SHOT, nearest=None, similarity=None)
    cosines = known_vectors @ vectors[label]  # (training label,)
    best = int(cosines.argmax())
    similarity = float(cosines[best])
    return LabelPresence(
        presence=OTHER_WORDS if similarity >= threshold else ZERO_SHOT,
        nearest=known[best],
        similarity=similarity,
    )


def training_labels(layout: DataLayout, model_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read the training labels of each model from the manifests of the checkpoints.

    A model that knows of none (``spectrum``, ``clap-audio``, an imported checkpoint) gets those of
    all the others, so that its figures stand in the same groups as theirs.

    Args:
        layout: where runs and ``models.json`` lie.
        model_ids: whose.

    Raises:
        ArtifactError: no model has training labels.
    """
    manifests = {manifest["model_id"]: manifest for manifest in checkpoint_manifests(layout)}
    known = {
        model_id: tuple(manifests.get(model_id, {}).get("training_labels") or ())
        for model_id in model_ids
    }
    all_known = tuple(sorted({text for texts in known.values() for text in texts}))
    if not all_known:
        raise ArtifactError(
            f"no checkpoint under {layout.runs} says which labels {', '.join(model_ids)} met in "
            f"training, so nothing can be told zero-shot; score a model trained here beside them"
        )
    return {model_id: texts or all_known for model_id, texts in known.items()}


def text_vectors(
    layout: DataLayout, texts: Iterable[str], encoder: LabelEncoder
) -> dict[str, np.ndarray]:
    """Read (dim,) of unit norm per text from the ``label_embeddings`` on disk; encode the rest."""
    wanted = sorted(set(texts) - {MUSIC})
    return dict(zip(wanted, TextVectors(encoder, layout).encode(wanted), strict=True))


def checkpoint_manifests(layout: DataLayout) -> list[dict[str, Any]]:
    """Read manifests: of ``starter``, of finished runs, of what ``models.json`` names."""
    paths = {kinds.SHIPPED / MANIFEST_NAME}
    paths |= set(layout.runs.glob(f"*/model/{MANIFEST_NAME}"))
    paths |= set(layout.runs.glob(f"*/initial/{MANIFEST_NAME}"))
    if layout.models_index.is_file():
        index: Mapping[str, str] = read_json(layout.models_index)
        paths |= {layout.home / Path(folder) / MANIFEST_NAME for folder in index.values()}
    return [read_json(path) for path in sorted(paths) if path.is_file()]
