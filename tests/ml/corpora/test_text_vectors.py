from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ml.artifacts import DataLayout
from ml.corpora import text_vectors
from ml.corpora.label_embeddings import read_label_vectors
from ml.corpora.text_vectors import TextVectors
from ml.labels.encoders import build_label_encoder


class Counting:
    """Encodes a text as its length, and says which texts it was asked for."""

    name = "counting"
    dim = 2

    def __init__(self, fingerprint: str = "counting-1"):
        self.fingerprint = fingerprint
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        if "" in texts:
            raise ValueError("empty")
        return np.array([[1.0, len(text)] for text in texts], dtype=np.float32)


def test_each_text_is_encoded_once() -> None:
    encoder = Counting()
    vectors = TextVectors(encoder)
    assert vectors.encode(["bass", "flute", "bass"])[:, 1].tolist() == [4, 5, 4]
    assert vectors.encode(["flute", "oboes!"])[:, 1].tolist() == [5, 6]
    assert encoder.asked == ["bass", "flute", "oboes!"]
    assert vectors.encode([]).shape == (0, 2)
    with pytest.raises(ValueError, match="empty"):
        vectors.encode([""])
    assert (vectors.name, vectors.dim, vectors.fingerprint) == ("counting", 2, "counting-1")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_vectors, "_MAX_TEXTS", 2)
    encoder = Counting()
    vectors = TextVectors(encoder)
    assert vectors.encode(["a", "bb", "ccc"])[:, 1].tolist() == [1, 2, 3]
    assert vectors.encode(["ccc", "a"])[:, 1].tolist() == [3, 1]
    assert encoder.asked == ["a", "bb", "ccc", "a"]


def test_threads_share_the_vectors() -> None:
    encoder = Counting()
    vectors = TextVectors(encoder)
    texts = ["x" * n for n in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: vectors.encode(texts)[:, 1].tolist(), range(32)))
    assert found == [list(range(1, 9))] * 32
    assert sorted(encoder.asked) == sorted(texts)


def test_labels_of_the_home_need_no_encoder(shared_home: Path) -> None:
    layout = DataLayout(home=shared_home)
    encoder = Counting(build_label_encoder("minilm").fingerprint)
    encoder.dim = 384
    stored = read_label_vectors(layout, "demo")
    vectors = TextVectors(encoder, layout)
    for text in ("music", max(stored)):
        assert np.array_equal(vectors.encode([text])[0], stored[text])
    assert not encoder.asked
    other = Counting("another encoder")
    assert TextVectors(other, layout).encode(["music"])[0].tolist() == [1, 5]
