from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ml.artifacts import ArtifactError, DataLayout
from ml.corpora.label_embeddings import build_label_embeddings, read_label_vectors
from ml.corpora.readers.manifest import ManifestCorpus
from ml.corpora.table import build_corpus_tracks


class HashEncoder:
    """A label encoder without meaning: unit vectors drawn from the text's hash."""

    name = "hash"
    dim = 8

    def __init__(self, salt: str = "") -> None:
        self.fingerprint = hashlib.sha256(salt.encode()).hexdigest()
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.encoded.extend(texts)
        drawn = [
            np.random.default_rng([*text.encode(), *self.fingerprint.encode()]).standard_normal(8)
            for text in texts
        ]
        vectors = np.array(drawn, dtype=np.float32).reshape(len(texts), 8)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def layout(tmp_path: Path) -> DataLayout:
    return DataLayout(home=tmp_path / "home")


def _build(layout: DataLayout, encoder: HashEncoder, path: Path):
    build_corpus_tracks("c", ManifestCorpus(path), layout)
    return build_label_embeddings("c", layout, encoder)


def test_every_label_and_music_come_back_exactly(write_corpus, layout) -> None:
    encoder = HashEncoder()
    path = write_corpus(a=("bass > bass guitar", "drums"), b=("bass", ""))
    artifact = _build(layout, encoder, path)
    vectors = read_label_vectors(layout, "c", encoder_fingerprint=encoder.fingerprint)
    assert list(vectors) == ["bass", "bass guitar", "drums", "music"]
    for text, vector in vectors.items():
        np.testing.assert_array_equal(vector, encoder.encode([text])[0])
    assert artifact.summary["texts"] == 4


def test_columns_hold_category_and_encoder(write_corpus, layout) -> None:
    import polars as pl

    encoder = HashEncoder()
    artifact = _build(layout, encoder, write_corpus(a=("bass > bass guitar", "drums")))
    table = pl.read_parquet(artifact.path / "labels.parquet")
    assert table.schema["vector"] == pl.Array(pl.Float32, 8)
    assert dict(zip(table["text"], table["category"], strict=True)) == {
        "bass": "bass",
        "bass guitar": "bass",
        "drums": "drums",
        "music": None,
    }
    assert set(table["encoder"]) == {f"hash@{encoder.fingerprint}"}


def test_only_new_texts_are_encoded(write_corpus, layout) -> None:
    encoder = HashEncoder()
    first = _build(layout, encoder, write_corpus(a=("bass", "drums")))
    assert sorted(encoder.encoded) == ["bass", "drums", "music"]
    encoder.encoded.clear()
    assert _build(layout, encoder, write_corpus(a=("bass", "drums"))).reused
    assert encoder.encoded == []
    second = _build(layout, encoder, write_corpus(a=("bass", "piano")))
    assert encoder.encoded == ["piano"]
    assert second.fingerprint != first.fingerprint
    assert list(read_label_vectors(layout, "c")) == ["bass", "music", "piano"]


def test_another_encoder_computes_everything_and_is_told_apart(write_corpus, layout) -> None:
    path = write_corpus(a=("bass", "drums"))
    old, new = HashEncoder(), HashEncoder("salt")
    _build(layout, old, path)
    with pytest.raises(ArtifactError, match=f"expected {new.fingerprint[:12]}"):
        read_label_vectors(layout, "c", encoder_fingerprint=new.fingerprint)
    _build(layout, new, path)
    assert len(new.encoded) == 3
    read_label_vectors(layout, "c", encoder_fingerprint=new.fingerprint)


def test_a_missing_artifact_says_how_to_make_it(layout) -> None:
    with pytest.raises(ArtifactError, match="stems labels build c"):
        read_label_vectors(layout, "c")
    with pytest.raises(ArtifactError, match="stems corpus build c"):
        build_label_embeddings("c", layout, HashEncoder())
