"""Click tracks, inputs that need no training, and tracks with features on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.audio.mel import LogMel, LogMelConfig
from ml.beats.features import BeatInput, FeatureConfig, step_count, track_features
from ml.beats.probe import FPS, ProbeTrack, probes_per_step
from ml.models.vit import ViTConfig, ViTEncoder

RATE_HZ = 16_000
FP32 = FeatureConfig(precision="fp32")


def clicks(beats: np.ndarray, duration_s: float, *, seed: int = 0) -> np.ndarray:
    """Short noise bursts at beats, over quiet noise: (samples,) float32."""
    random = np.random.default_rng(seed)
    waveform = random.normal(0, 5e-3, round(duration_s * RATE_HZ))
    burst = random.normal(0, 0.3, 320) * np.exp(-np.arange(320) / 80)
    for start in np.rint(beats * RATE_HZ).astype(int):
        waveform[start : start + 320] += burst[: max(0, len(waveform) - start)]
    return waveform.astype(np.float32)


def random_beats(seed: int, duration_s: float) -> np.ndarray:
    """Times at least 0.4 s apart that no tempo and no frame grid predicts."""
    steps = np.random.default_rng(seed).uniform(0.4, 0.9, round(3 * duration_s))
    times = steps.cumsum()
    return times[times < duration_s - 0.1]


def all_features(
    source: BeatInput, waveform: np.ndarray, config: FeatureConfig = FP32
) -> dict[int, np.ndarray]:
    """Layer → (step, feature) of a whole waveform."""
    blocks = [layers for _, _, layers in track_features([source], waveform, config)]
    return {layer: torch.cat([b[layer] for b in blocks]).numpy() for layer in source.layers}


@pytest.fixture
def features_of() -> Callable[..., dict[int, np.ndarray]]:
    return all_features


@pytest.fixture
def make_clicks() -> Callable[..., np.ndarray]:
    return clicks


@pytest.fixture
def mel_input() -> BeatInput:
    """The log-mel itself."""
    return BeatInput(
        name="log-mel",
        model_id="log-mel-test",
        log_mel=LogMel(LogMelConfig()),
        chunk_s=8.0,
        step_frames=16,
    )


@pytest.fixture
def make_encoder() -> Callable[..., BeatInput]:
    """A small untrained encoder with all its layers."""

    def make(chunk_s: float = 4.0, layers: tuple[int, ...] = (0, 1, 2)) -> BeatInput:
        torch.manual_seed(0)
        return BeatInput(
            name="untrained",
            model_id="encoder-test",
            log_mel=LogMel(LogMelConfig()),
            chunk_s=chunk_s,
            step_frames=16,
            encoder=ViTEncoder(ViTConfig(dim=32, layers=2, heads=2)).eval(),
            layers=layers,
        )

    return make


@pytest.fixture
def make_track(tmp_path: Path) -> Callable[..., ProbeTrack]:
    """Write the features of a click track; its group is a fold or a split."""

    def make(
        source: BeatInput, seed: int, group: str | int | None = "train", duration_s: float = 12.0
    ) -> ProbeTrack:
        beats = random_beats(seed, duration_s)
        waveform = clicks(beats, duration_s, seed=seed)
        features = all_features(source, waveform)
        path = tmp_path / f"{source.model_id}-{seed}.npy"
        np.save(path, np.stack([features[layer] for layer in source.layers]))
        steps = step_count(source, len(waveform))
        return ProbeTrack(
            corpus="clicks",
            track_id=f"track-{seed}",
            group=group,
            beats=beats,
            features=path,
            steps=steps,
            probes=(probes := probes_per_step(source.step_s)),
            frames=min(steps * probes, round(duration_s * FPS)),
        )

    return make
