"""Shards of synthetic tracks, made without tables or label encoders: what a bare GPU box can do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from ml.artifacts import file_fingerprint
from ml.processes import process_pool
from ml.shards.build import finish_shards
from ml.shards.plan import PlannedTrack, ShardConfig, plan_shards
from ml.shards.write import ShardJob, write_shard
from ml.tracks import Stem, Track

RATE_HZ = 16000
_LABELS = (("bass",), ("drums",), ("guitar", "acoustic guitar"), ("vocals",))


@dataclass(frozen=True, kw_only=True)
class Tones:
    """How much audio there is."""

    tracks: int
    stems: int = 4
    track_s: float = 32.0
    condition_dim: int = 512

    @property
    def stem_s(self) -> float:
        """All stems together, in seconds."""
        return self.tracks * self.stems * self.track_s


def write_tone_shards(folder: Path, tones: Tones, config: ShardConfig, *, workers: int = 1) -> Path:
    """Write decaying tones over some noise as shards of one split, with random label vectors.

    FLAC stores them in about 0.6 of PCM16.

    Args:
        folder: where the shards go; the audio they are made from goes beside it.
        tones: how much.
        config: how to store.
        workers: processes.

    Returns:
        ``folder``, with its manifest.
    """
    folder.mkdir(parents=True)
    audio = folder.parent / f"{folder.name}-audio"
    rng = np.random.default_rng(0)
    vectors = {
        text: vector / np.linalg.norm(vector)
        for text in sorted({label for labels in _LABELS for label in labels})
        for vector in [rng.standard_normal(tones.condition_dim).astype(np.float32)]
    }
    encoder = {"name": "random", "dim": tones.condition_dim, "fingerprint": "0" * 64}
    with process_pool(workers) as pool:
        writing = [pool.submit(_write_track, audio, tones, i) for i in range(tones.tracks)]
        tracks = [future.result() for future in writing]
        tasks = plan_shards(_planned(tracks, tones), config)
        jobs = [
            ShardJob(
                task=task,
                config=config,
                key=task.fingerprint(config, encoder),
                vectors=vectors,
                folder=folder,
            )
            for task in tasks
        ]
        made = {
            index.name: index
            for done in as_completed([pool.submit(write_shard, job) for job in jobs])
            for index in [done.result()]
        }
    indexes = [made[name] for name in sorted(made)]
    return finish_shards(folder, {"tones": tones}, indexes, encoder, config).path


def _planned(tracks: list[Track], tones: Tones) -> Iterator[PlannedTrack]:
    for track in tracks:
        yield PlannedTrack(
            corpus="tones",
            track=track,
            split="train",
            duration_s=tones.track_s,
            content_hashes=tuple(file_fingerprint(stem.files[0]) for stem in track.stems),
        )


def _write_track(root: Path, tones: Tones, number: int) -> Track:
    rng = np.random.default_rng(number)
    time_s = np.arange(round(tones.track_s * RATE_HZ)) / RATE_HZ
    folder = root / f"track {number:04d}"
    folder.mkdir(parents=True)
    stems = []
    for i in range(tones.stems):
        pitch_hz = 80.0 * 2 ** (rng.uniform(0, 4))
        overtones = sum(
            np.sin(2 * np.pi * pitch_hz * k * time_s + rng.uniform(0, 6)) / k for k in (1, 2, 3)
        )
        waveform = 0.2 * overtones * np.exp(-3 * (2 * time_s % 1))
        waveform += 0.003 * rng.standard_normal(len(time_s))
        path = folder / f"stem {i}.wav"
        soundfile.write(path, waveform, RATE_HZ, subtype="PCM_16")
        labels = _LABELS[i % len(_LABELS)]
        stems.append(Stem(stem_id=f"{number:04d}/{i}", files=(path,), labels=labels))
    return Track(track_id=f"{number:04d}", stems=tuple(stems))
