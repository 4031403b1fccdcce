from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

Write = Callable[..., Path]


@pytest.fixture
def write_corpus(tmp_path: Path) -> Write:
    """Write a manifest corpus of noise; ``write_corpus(track=("bass", "drums"))`` → its CSV."""

    def write(**tracks: tuple[str, ...]) -> Path:
        root = tmp_path / "corpus"
        root.mkdir(exist_ok=True)
        lines = ["track_id,audio,labels,split"]
        for seed, (track, labels) in enumerate(tracks.items()):
            for place, label in enumerate(labels):
                noise = np.random.default_rng([seed, place]).uniform(
                    -0.5, 0.5, 16000 + 1600 * place
                )
                soundfile.write(root / f"{track}_{place}.wav", noise, 16000, subtype="PCM_16")
                lines.append(f"{track},{track}_{place}.wav,{label},train")
        (root / "corpus.csv").write_text("\n".join(lines) + "\n")
        return root / "corpus.csv"

    return write


@pytest.fixture
def write_noise() -> Write:
    """Write noise as audio, folders and all; ``write_noise(path, duration_s=0.5)`` → the path."""

    def write(path: Path, duration_s: float = 0.5, rate_hz: int = 16000, channels: int = 1) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (round(duration_s * rate_hz), channels)
        seed = list(path.as_posix().encode())
        noise = np.random.default_rng(seed).uniform(-0.3, 0.3, shape)
        soundfile.write(path, noise, rate_hz, subtype="PCM_16")
        return path

    return write
