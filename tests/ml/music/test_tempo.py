from __future__ import annotations

import numpy as np
import pytest

from ml.music.tempo import RATE_HZ, find_tempo


def clicks(times_s: np.ndarray, levels: np.ndarray, duration_s: float) -> np.ndarray:
    """Bursts of noise that decay within 50 ms."""
    random = np.random.default_rng(0)
    audio = 1e-4 * random.standard_normal(round(duration_s * RATE_HZ))
    decay = np.exp(-np.arange(RATE_HZ // 10) / (0.01 * RATE_HZ))
    for start, level in zip(np.rint(times_s * RATE_HZ).astype(int), levels, strict=True):
        part = audio[start : start + len(decay)]
        part += 0.5 * level * (decay * random.standard_normal(len(decay)))[: len(part)]
    return audio.astype(np.float32)


def metre(bpm: float, levels: list[float], parts: int, seconds: float = 20.0) -> np.ndarray:
    """A bar of ``levels`` again and again, ``parts`` of them a beat, from 0.3 s on."""
    times = np.arange(0.3, seconds - 0.2, 60 / bpm / parts)
    return clicks(times, np.resize(levels, len(times)), seconds)


FOUR = [1.0, 0.3, 0.6, 0.3, 0.8, 0.3, 0.6, 0.3]
THREE = [1.0, 0.3, 0.5, 0.3, 0.5, 0.3]
SIX_EIGHTHS = [1.0, 0.0, 0.4, 0.8, 0.0, 0.4]


@pytest.mark.parametrize(
    ("bpm", "bar", "parts"),
    [(92.3, FOUR, 2), (128.0, FOUR, 2), (147.9, THREE, 2), (110.0, THREE, 2), (100.0, FOUR, 2)],
)
def test_a_steady_tempo_is_found_to_half_a_percent(bpm: float, bar: list[float], parts: int):
    tempo = find_tempo(metre(bpm, bar, parts))
    assert tempo is not None
    assert tempo.bpm == pytest.approx(bpm, rel=0.005)
    grid = (tempo.beats_s - 0.3) * bpm / 60
    off = np.abs(grid - np.rint(grid)) * 60 / bpm
    assert np.median(off) < 0.02


def test_of_six_eighths_it_is_the_beat_or_its_double():
    tempo = find_tempo(metre(80.0, SIX_EIGHTHS, 3))
    assert tempo is not None
    assert min(abs(tempo.bpm / 80 - times) for times in (1, 2)) < 0.005


def test_what_has_no_steady_tempo_has_none():
    random = np.random.default_rng(1)
    free = np.cumsum(random.uniform(0.1, 1.1, 30))
    hiss = 1e-3 * random.standard_normal(20 * RATE_HZ)
    tone = 0.1 * np.sin(np.arange(20 * RATE_HZ) * 0.2) + hiss
    chord = 0.05 * np.sin(np.arange(20 * RATE_HZ)[:, None] * [0.0864, 0.1088, 0.1294]).sum(axis=1)
    without = {
        "nothing": np.zeros(0, np.float32),
        "a second": metre(120, FOUR, 2, seconds=1.0),
        "silence": np.zeros(20 * RATE_HZ, np.float32),
        "noise": 0.1 * random.standard_normal(20 * RATE_HZ).astype(np.float32),
        "free time": clicks(free, np.ones(30), free[-1] + 1),
        "a held tone": tone.astype(np.float32),
        "a chord without noise": chord.astype(np.float32),
    }
    assert [name for name, audio in without.items() if find_tempo(audio)] == []
