"""What embedding a corpus costs beside the encoders: decoding, resampling, log-mels, mixes, files.

The peer is the bare forward: as many chunks through the same model in the same batches and
precision on the same cores, from log-mels that lie in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

from ml.artifacts import DataLayout
from ml.benchmarks.measure import Measure, cost_of, in_own_process, peak_memory_gb
from ml.corpora.corpus import open_corpus
from ml.corpora.table import build_corpus_tracks
from ml.device import autocast, keep_freed_memory
from ml.models.stem_jepa import StemJepa
from ml.retrieval.embeddings.build import embed_corpus
from ml.training.config import Size, training_config

STEMS, SECONDS, RATE_HZ = ("bass", "drums", "guitar", "vocals"), 32, 44_100
BATCH_CHUNKS = 64
_TRACKS: dict[Size, int] = {"small": 3, "paper": 2}
_ROUNDS: dict[Size, int] = {"small": 6, "paper": 3}
"""The best of each is compared: whatever else the machine does only slows down."""
_CONDITION_DIM = 512


def measure() -> Iterator[Measure]:
    """Whole passes over generated tracks, by random weights of two sizes."""
    for size in _TRACKS:
        taken, memory_gb = in_own_process(compare_with_forward, size)
        yield Measure(
            name=f"embedding beside the encoders, {size}",
            value=100 * (taken["pass_s"] / taken["bare_s"] - 1),
            unit="% of the bare forward",
            asked=25.0,
            lower_is_better=True,
            note=f"{taken['pass_s']:.2f} s beside {taken['bare_s']:.2f} s (best of "
            f"{_ROUNDS[size]}), {taken['pass_cpu_s']:.2f} beside {taken['bare_cpu_s']:.2f} CPU s; "
            f"{_TRACKS[size] * len(STEMS)} stems of {SECONDS} s, {RATE_HZ} Hz stereo WAV: "
            f"{taken['chunks']} chunks of stems and as many of mixes",
        )
        yield Measure(
            name=f"memory of embedding, {size}",
            value=memory_gb,
            unit="GB",
            lower_is_better=True,
            note=f"peak of the process; {taken['bare_gb']:.2f} GB of the bare forward",
        )


def compare_with_forward(size: Size) -> dict[str, float]:
    """Measure what passes take and what their forwards alone take, in s; memory in GB."""
    keep_freed_memory()
    model = _model(size)
    labels = dict(zip((*STEMS, "music"), _random(len(STEMS) + 1, _CONDITION_DIM), strict=True))
    chunks = _TRACKS[size] * len(STEMS) * round(SECONDS / model.chunk_s)
    _forward(model, chunks)
    bare_gb = peak_memory_gb()
    bare, made = [], []
    with tempfile.TemporaryDirectory() as folder:
        layout = _corpus(Path(folder), _TRACKS[size])
        for number in range(_ROUNDS[size]):
            model.manifest["model_id"] = f"{size}-{number}"
            bare.append(cost_of(lambda: _forward(model, chunks)))
            made.append(cost_of(lambda: embed_corpus("tracks", [model], layout, labels)))
        (artifact,) = embed_corpus("tracks", [model], layout, labels)
    if not artifact.reused or artifact.summary["chunks"] != chunks:
        raise RuntimeError(f"{artifact.summary}: expected {chunks} chunks")
    return {
        "pass_s": min(cost.wall_s for cost in made),
        "pass_cpu_s": min(cost.cpu_s for cost in made),
        "bare_s": min(cost.wall_s for cost in bare),
        "bare_cpu_s": min(cost.cpu_s for cost in bare),
        "bare_gb": bare_gb,
        "chunks": chunks,
    }


def _model(size: Size) -> StemJepa:
    torch.manual_seed(0)
    model = StemJepa(training_config("film", size=size, condition_dim=_CONDITION_DIM).model)
    model.manifest = {"name": "film", "model_id": ""}
    return model.eval().requires_grad_(False)


def _corpus(home: Path, tracks: int) -> DataLayout:
    """Noise with a rhythm; what it is does not matter for the time, only that it sounds."""
    lines = ["track_id,stem_id,audio,labels"]
    for track in range(tracks):
        for i, label in enumerate(STEMS):
            name = f"{track}-{label}.wav"
            noise = 0.1 * _random(SECONDS * RATE_HZ, 2, seed=track * len(STEMS) + i)
            soundfile.write(home / name, noise, RATE_HZ, subtype="PCM_16")
            lines.append(f"{track},{label},{name},{label}")
    (home / "tracks.csv").write_text("\n".join(lines) + "\n")
    layout = DataLayout(home=home)
    build_corpus_tracks("tracks", open_corpus("manifest", home / "tracks.csv"), layout)
    return layout


@torch.inference_mode()
def _forward(model: StemJepa, chunks: int) -> None:
    """So many chunks as stems and as many as mixes, in batches."""
    frames = round(model.chunk_s * model.rate_hz) // model.config.log_mel.hop_samples
    mel = torch.from_numpy(_random(BATCH_CHUNKS, model.config.encoder.mel_bins, frames))
    condition = torch.from_numpy(_random(BATCH_CHUNKS, _CONDITION_DIM))
    classes = torch.zeros(BATCH_CHUNKS, dtype=torch.int64)
    with autocast(torch.device("cpu"), "bf16"):
        for first in range(0, chunks, BATCH_CHUNKS):
            size = min(BATCH_CHUNKS, chunks - first)
            model.gallery_vectors(mel[:size])
            model.query_vectors(mel[:size], condition[:size], classes[:size])


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
