"""A corpus of sines written to disk, and a stand-in model whose embedding is the mean spectrum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from torch import Tensor

from ml.artifacts import DataLayout, write_json
from ml.corpora.corpus import open_corpus
from ml.corpora.table import build_corpus_tracks
from ml.retrieval.embeddings.files import StemRow, stem_table
from ml.settings import Settings

RATE_HZ = 16_000
LABELS = ("bass", "drums", "guitar", "piano", "music")
BINS = 40
"""The spectrum is summed in bands of 200 Hz."""


class BandPower:
    """Power per 200 Hz band and frame of 0.1 s: a frontend that is exact on whole-band sines."""

    calls = 0

    def __call__(self, waveform: Tensor) -> Tensor:
        type(self).calls += 1
        frames = waveform.unfold(-1, 1600, 1600)  # (batch, frame, 1600)
        power = torch.fft.rfft(frames).abs().square()[..., :800].unflatten(-1, (BINS, 20))
        return power.sum(-1).transpose(1, 2)

    def fingerprint(self) -> str:
        return "band power"


class BandModel:
    """Embeds a sound as its mean band power; in phase ``jepa`` adds the condition to queries."""

    rate_hz = RATE_HZ
    dim = BINS
    label_encoder: Mapping[str, Any] = {}

    def __init__(
        self,
        name: str = "bands",
        *,
        phase: str = "spectrum",
        condition_weight: float = 0.0,
        chunk_s: float = 1.0,
        training_tracks: Sequence[Mapping[str, Any]] = (),
    ):
        self.name, self.phase, self.chunk_s = name, phase, chunk_s
        self.model_id = f"id-{name}"
        self.condition_dim = BINS if phase == "jepa" else None
        self.condition_weight = condition_weight
        self.part_shares = (1.0,)
        self.training_tracks = training_tracks
        self.log_mel = BandPower()

    def gallery_vectors(self, mel: Tensor) -> Tensor:
        return mel.mean(-1)

    def query_vectors(
        self, mel: Tensor, condition: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        assert classes is not None
        assert (condition is None) == (self.phase != "jepa")
        vectors = mel.mean(-1)
        return vectors if condition is None else vectors + self.condition_weight * condition


def sine(band: int, seconds: float, level: float = 0.2) -> np.ndarray:
    """A sine in the middle of a band, so that all its power lies there."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (level * np.sin(2 * np.pi * (200 * band + 100) * time)).astype(np.float32)


@pytest.fixture
def make_sine() -> Callable[..., np.ndarray]:
    return sine


@pytest.fixture
def band_model() -> type[BandModel]:
    return BandModel


@pytest.fixture
def label_vectors() -> dict[str, np.ndarray]:
    return {text: np.eye(BINS, dtype=np.float32)[i] for i, text in enumerate(LABELS)}


@pytest.fixture
def layout(tmp_path: Path) -> DataLayout:
    return DataLayout(home=tmp_path / "home")


@pytest.fixture(scope="session")
def clustered_stems() -> Callable[..., pa.Table]:
    """Stems around directions, four a track and one label a direction; equal for equal seeds."""

    def make(count: int, *, corpus: str = "many", dim: int = 16, seed: int = 0) -> pa.Table:
        random = np.random.default_rng(seed)
        labels = random.integers(12, size=count)
        centres = np.random.default_rng(9).standard_normal((12, dim))
        vectors = centres[labels] + 0.8 * random.standard_normal((count, dim))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        rows = [
            StemRow(
                stem_id=f"t{i // 4}/it's {i}",
                track_id=f"t{i // 4}",
                corpus=corpus,
                split=None,
                label=f"label {label}",
                category=f"category {label % 3}",
                labels=(f"category {label % 3}", f"label {label}"),
                duration_s=float(i),
                audio="a.wav",
            )
            for i, label in enumerate(labels)
        ]
        return stem_table(rows, vectors.astype(np.float32))

    return make


@pytest.fixture
def write_corpus(
    tmp_path: Path, layout: DataLayout
) -> Callable[[str, Mapping[str, Mapping[str, tuple[str, np.ndarray]]]], Path]:
    """Write tracks → stems → (label, waveform) as wav files with a CSV, and build its table."""

    def write(
        name: str, tracks: Mapping[str, Mapping[str, tuple[str, np.ndarray]]], split: str = ""
    ) -> Path:
        root = tmp_path / name
        lines = ["track_id,stem_id,audio,labels,split"]
        for track, stems in tracks.items():
            (root / track).mkdir(parents=True, exist_ok=True)
            for stem, (label, waveform) in stems.items():
                soundfile.write(root / track / f"{stem}.wav", waveform, RATE_HZ, subtype="FLOAT")
                lines.append(f"{track},{stem},{track}/{stem}.wav,{label},{split}")
        (root / "corpus.csv").write_text("\n".join(lines) + "\n")
        build_corpus_tracks(name, open_corpus("manifest", root / "corpus.csv"), layout)
        return root

    return write


@pytest.fixture
def write_checkpoint() -> Callable[..., Path]:
    """Write what promotion looks at of a checkpoint: ``runs/<name>/model``."""

    def write(layout: DataLayout, name: str, **manifest: Any) -> Path:
        folder = layout.runs / name / "model"
        folder.mkdir(parents=True, exist_ok=True)
        described = {"format_version": 1, "model_id": f"id-{name}", "name": name, **manifest}
        write_json(folder / "manifest.json", described)
        write_json(folder / "config.json", {})
        return folder

    return write


@pytest.fixture
def promotable(
    write_corpus: Any,
    make_sine: Any,
    band_model: Any,
    layout: DataLayout,
    label_vectors: dict[str, np.ndarray],
    write_checkpoint: Callable[..., Path],
) -> Settings:
    """Ten songs published with "good" and its equal "twin", which know where conditions lie, and
    with "bad", which does not."""

    def stem(band: int, song: int) -> np.ndarray:
        return make_sine(band, 1.0) + make_sine(20 + song, 1.0)

    from ml.retrieval.embeddings.build import embed_corpus
    from ml.retrieval.tables.publish import publish_corpus
    from ml.settings import load_settings

    root = write_corpus(
        "songs",
        {
            f"song{i}": {"bass": ("bass", stem(0, i)), "guitar": ("guitar", stem(2, i))}
            for i in range(10)
        },
    )
    models = [
        band_model("good", phase="jepa", condition_weight=1e5),
        band_model("twin", phase="jepa", condition_weight=1e5),
        band_model("bad"),
    ]
    embed_corpus("songs", models, layout, label_vectors)
    for model in models:
        write_checkpoint(layout, model.name)
        publish_corpus(layout, model.model_id, "songs")
    write_json(layout.models_index, {m.name: f"runs/{m.name}/model" for m in models})
    (layout.home / "config.yaml").write_text(
        f"corpora: {{songs: {{kind: manifest, root: '{root / 'corpus.csv'}'}}}}\n"
        "training: {presets: [good], corpora: [songs]}\n"
        "evaluation: {bootstrap_resamples: 100}\n"
    )
    return load_settings(layout.home)
