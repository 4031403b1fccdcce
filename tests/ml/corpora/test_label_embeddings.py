from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ml.artifacts import ArtifactError, DataLayout
from ml.corpora import label_embeddings
from ml.corpora.label_embeddings import TextVectors, build_label_embeddings, read_label_vectors
from ml.corpora.readers.manifest import ManifestCorpus
from ml.corpora.table import build_corpus_tracks
from ml.labels.encoders import build_label_encoder


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
    monkeypatch.setattr(label_embeddings, "_MAX_TEXTS", 2)
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


@pytest.mark.parametrize("name", ["[x] {y}", "50% off?", "a%20b", "Übung #2"])
def test_a_home_may_have_any_name(write_corpus, tmp_path: Path, name: str) -> None:
    layout = DataLayout(home=tmp_path / name)
    _build(layout, HashEncoder(), write_corpus(a=("bass", "drums")))
    assert list(read_label_vectors(layout, "c")) == ["bass", "drums", "music"]
    assert (tmp_path / name / "tracks" / "c" / "tracks.parquet").is_file()
