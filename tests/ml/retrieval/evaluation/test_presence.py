from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ml import kinds
from ml.artifacts import ArtifactError, DataLayout, write_json
from ml.labels.encoders import build_label_encoder
from ml.labels.taxonomy import CATEGORIES
from ml.retrieval.evaluation.presence import (
    PRESENCES,
    label_presences,
    text_vectors,
    training_labels,
)

ANGLES = {"saxophone": 0.0, "sax": 30.0, "clarinet": 60.0, "kazoo": 95.0, "flute": 90.0}


class AngleEncoder:
    """Texts as directions in a plane; says what it was asked to encode."""

    name, dim, fingerprint = "angles", 2, "f" * 64

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.encoded += texts
        angles = np.radians([ANGLES[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.fixture
def vectors() -> dict[str, np.ndarray]:
    return dict(zip(ANGLES, AngleEncoder().encode(list(ANGLES)), strict=True))


def test_a_label_is_known_by_its_text_in_other_words_or_not(vectors: dict[str, np.ndarray]):
    found = label_presences(
        ["saxophone", "sax", "clarinet", "music"],
        ["saxophone", "flute", "music"],
        vectors,
        threshold=0.86,
    )
    assert {label: p.presence for label, p in found.items()} == {
        "saxophone": "same-text",
        "sax": "other-words",
        "clarinet": "other-words",  # 30 degrees from the flute
        "music": "no-label",
    }
    assert found["sax"].nearest == "saxophone"
    assert found["clarinet"].nearest == "flute"
    assert found["sax"].similarity == pytest.approx(np.cos(np.pi / 6), abs=1e-6)
    strict = label_presences(["sax"], ["saxophone"], vectors, threshold=0.87)["sax"]
    assert (strict.presence, strict.nearest) == ("zero-shot", "saxophone")
    assert {p.presence for p in found.values()} <= set(PRESENCES)


def test_the_order_of_labels_does_not_matter(vectors: dict[str, np.ndarray]):
    known = ["flute", "saxophone"]
    assert label_presences(ANGLES, known, vectors) == label_presences(
        reversed(list(ANGLES)), known[::-1], vectors
    )


def test_without_training_labels_all_is_zero_shot(vectors: dict[str, np.ndarray]):
    found = label_presences(["sax"], ["music"], vectors)["sax"]
    assert (found.presence, found.nearest, found.similarity) == ("zero-shot", None, None)


def test_wrong_input_is_named(vectors: dict[str, np.ndarray]):
    with pytest.raises(ValueError, match="other words is 0"):
        label_presences(["sax"], ["saxophone"], vectors, threshold=0.0)
    with pytest.raises(ValueError, match="1 labels have no vector, 'tuba'"):
        label_presences(["tuba"], ["saxophone"], vectors)


def test_training_labels_come_from_checkpoints(
    layout: DataLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_json(
        layout.runs / "a" / "model" / "manifest.json",
        {"model_id": "a", "training_labels": ["sax", "flute"]},
    )
    write_json(layout.home / "imported" / "manifest.json", {"model_id": "b"})
    write_json(layout.models_index, {"class": "imported"})
    found = training_labels(layout, ["a", "b", "spectrum-a"])
    assert found["a"] == ("sax", "flute")
    # those who know none are grouped like the others
    assert found["b"] == found["spectrum-a"] == ("flute", "sax")
    with pytest.raises(ArtifactError, match="nothing can be told zero-shot"):
        training_labels(layout, ["b"])
    write_json(
        tmp_path / "shipped" / "manifest.json", {"model_id": "c", "training_labels": ["oud"]}
    )
    monkeypatch.setattr(kinds, "SHIPPED", tmp_path / "shipped")
    assert training_labels(layout, ["c"]) == {"c": ("oud",)}


def test_only_unknown_texts_are_encoded(home: Path, layout: DataLayout):
    encoder = AngleEncoder()
    found = text_vectors(layout, ["sax", "flute", "sax", "music"], encoder)
    assert sorted(encoder.encoded) == ["flute", "sax"]
    np.testing.assert_allclose(found["flute"], [0, 1], atol=1e-6)
    other = DataLayout(home=home)

    class Silent(AngleEncoder):
        fingerprint, dim = build_label_encoder("minilm").fingerprint, 384

    stored = Silent()
    assert len(text_vectors(other, ["drum kit"], stored)["drum kit"]) == 384
    assert stored.encoded == []


def test_the_default_similarity_separates_minilm_as_its_docstring_says():
    texts = [text for group in CATEGORIES.values() for text in group]
    encoder = build_label_encoder("minilm")
    vectors = dict(zip(texts, encoder.encode(texts), strict=True))
    words = {"sax": "saxophone", "synth bass": "bass synthesizer", "snare": "snare drum"}
    pairs = [*words, *words.values()]
    vectors |= dict(zip(pairs, encoder.encode(pairs), strict=True))
    for label, known in words.items():
        found = label_presences([label], [known, "organ"], vectors)[label]
        assert (found.presence, found.nearest) == ("other-words", known)
    for label, known in {"flute": "percussion", "organ": "synth pad"}.items():
        assert label_presences([label], [known], vectors)[label].presence == "zero-shot"
