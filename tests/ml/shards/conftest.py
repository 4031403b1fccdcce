"""A small corpus with silences, several lengths and one stem above full scale, and its shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ml.artifacts import Artifact, DataLayout
from ml.corpora.label_embeddings import build_label_embeddings
from ml.corpora.table import build_corpus_tracks
from ml.shards.build import ShardConfig, build_shards
from ml.tracks import Stem, Track

RATE_HZ = 16000


@dataclass
class WordEncoder:
    """Texts to fixed random unit vectors."""

    name: str = "words"
    dim: int = 8
    fingerprint: str = "0" * 64

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256((self.fingerprint + text).encode()).digest()[:4])
            rows.append(np.random.default_rng(seed).normal(size=self.dim))
        vectors = np.array(rows, dtype=np.float32).reshape(len(texts), self.dim)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@dataclass
class ShardedCorpus:
    """Tracks on disk with their source waveforms, and a way to build what comes before shards."""

    name: str
    root: Path
    layout: DataLayout
    config: ShardConfig
    listed: list[Track]
    encoder: WordEncoder

    def tracks(self) -> Iterator[Track]:
        return iter(self.listed)

    def add(self, track_id: str, stems: dict[str, tuple[tuple[str, ...], np.ndarray]]) -> None:
        made = []
        for name, (labels, waveform) in stems.items():
            path = self.root / track_id / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, waveform, RATE_HZ, subtype="FLOAT")
            made.append(Stem(stem_id=f"{track_id}/{name}", files=(path,), labels=labels))
        self.listed.append(Track(track_id=track_id, stems=tuple(made), split="train"))

    def in_home(self, home: Path) -> ShardedCorpus:
        """The same audio, with artifacts elsewhere."""
        return replace(self, layout=DataLayout(home=home), listed=list(self.listed))

    def source(self, stem_id: str) -> np.ndarray:
        return soundfile.read(self.root / f"{stem_id}.wav", dtype="float32")[0]

    def build(self, *, workers: int = 1, fresh: bool = False) -> Artifact:
        build_corpus_tracks(self.name, self, self.layout)
        build_label_embeddings(self.name, self.layout, self.encoder)
        return build_shards(self.name, self.layout, self.config, workers=workers, fresh=fresh)

    @property
    def folder(self) -> Path:
        return self.layout.shards(self.name)

    def shard_bytes(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.folder.glob("[!.]*.tar"))}


def tone(seed: int, duration_s: float, sounds: Sequence[tuple[float, float]]) -> np.ndarray:
    """A noisy tone that sounds only in the given intervals of seconds."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    waveform = 0.2 * np.sin(2 * np.pi * (200 + 37 * seed) * time_s) + 0.02 * rng.normal(
        size=time_s.shape
    )
    on = np.zeros(len(time_s), dtype=bool)
    for start_s, end_s in sounds:
        on[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)] = True
    return np.where(on, waveform, 0.0).astype(np.float32)


@pytest.fixture(scope="session")
def make_tone() -> Callable[..., np.ndarray]:
    return tone


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., ShardedCorpus]:
    def make(home: Path, *, name: str = "demo", n_tracks: int = 6, **config: object):
        made = ShardedCorpus(
            name=name,
            root=home / "audio" / name,
            layout=DataLayout(home=home / "home"),
            config=replace(ShardConfig(segment_s=6.0, shard_segments=8, chunk_s=2.0), **config),
            listed=[],
            encoder=WordEncoder(),
        )
        for i in range(n_tracks):
            end = 10.0 + 4.0 * (i % 3)
            stems = {
                "bass": (("bass", "bass guitar"), tone(10 * i, end, [(0, end)])),
                "drums": (("drums",), tone(10 * i + 1, end, [(0, 3), (5, end - 2)])),
                "keys": (("piano", "grand piano"), tone(10 * i + 2, end - 1.5, [(1, 2.5), (8, 9)])),
                "extra": ((), 9.0 * tone(10 * i + 3, end, [(2, 9.7)])),
            }
            made.add(f"song {i}.v1", stems)
        # Two stems that never sound together, then a pause: only its first segments give pairs.
        sparse = {
            "left": (("guitar",), tone(901, 30.0, [(0, 5), (8, 9)])),
            "right": (("vocals",), tone(902, 30.0, [(0, 4), (11.2, 11.9)])),
        }
        made.add("sparse", sparse)
        made.add("alone", {"only": (("flute",), tone(903, 8.0, [(0, 8)]))})
        return made

    return make


@pytest.fixture(scope="session")
def flac_corpus(
    tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable[..., ShardedCorpus]
) -> ShardedCorpus:
    made = make_corpus(tmp_path_factory.mktemp("flac"))
    made.build()
    return made


@pytest.fixture(scope="session")
def pcm16_corpus(
    tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable[..., ShardedCorpus]
) -> ShardedCorpus:
    made = make_corpus(tmp_path_factory.mktemp("pcm16"), payload="pcm16")
    made.build()
    return made
