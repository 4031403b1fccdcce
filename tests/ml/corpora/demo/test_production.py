from __future__ import annotations

import numpy as np
import pytest

from ml.corpora.demo.production import draw_character, fast_length, produce
from ml.corpora.demo.synths import RATE_HZ

CHARACTERS = [draw_character(np.random.default_rng(seed)) for seed in range(12)]


def burst(seed: int = 0) -> np.ndarray:
    """One second of silence, half a second of noise, 2.5 s of silence, peak 0.5."""
    noise = np.random.default_rng(seed).standard_normal(RATE_HZ // 2).astype(np.float32)
    stem = np.zeros(4 * RATE_HZ, np.float32)
    stem[RATE_HZ : RATE_HZ + len(noise)] = 0.5 * noise / np.abs(noise).max()
    return stem


def level_db(waveform: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(waveform.astype(float) ** 2) + 1e-12))


def tone_db(waveform: np.ndarray) -> np.ndarray:
    """Level in 30 bands, of mean 0: (30,)."""
    power = np.abs(np.fft.rfft(waveform)) ** 2
    edges = np.geomspace(60, 7000, 31) * len(waveform) / RATE_HZ
    bands = 10 * np.log10(np.add.reduceat(power, edges.astype(int))[:30])
    return bands - bands.mean()


@pytest.mark.parametrize("character", CHARACTERS)
def test_level_is_kept_and_silence_stays_silent(character):
    dry = burst()
    wet = produce(dry, character, np.random.default_rng(1))
    assert wet.dtype == np.float32
    assert np.abs(wet).max() == pytest.approx(0.5, abs=0.005)
    before, after = wet[: RATE_HZ - 10], wet[-RATE_HZ // 2 :]
    assert -90 < level_db(before) < -65
    assert level_db(after) < -60


@pytest.mark.parametrize("character", CHARACTERS)
def test_nothing_sounds_before_the_beat(character):
    dry = burst()
    wet = produce(dry, character, np.random.default_rng(1))
    frames = np.abs(wet[: 2 * RATE_HZ].reshape(-1, 160)).max(axis=1)
    first = int(np.argmax(frames > 0.02))
    assert 100 <= first <= 103


def test_a_character_is_recognised_on_other_sound():
    first = [tone_db(produce(burst(1), c, np.random.default_rng(1))) for c in CHARACTERS]
    second = [tone_db(produce(burst(2), c, np.random.default_rng(2))) for c in CHARACTERS]
    distance = np.linalg.norm(np.array(first)[:, None] - np.array(second)[None], axis=-1)
    assert (distance.argmin(axis=1) == np.arange(len(CHARACTERS))).all()


def test_fast_length_is_the_smallest_smooth_number():
    def is_smooth(number: int) -> bool:
        for prime in (2, 3, 5):
            while number % prime == 0:
                number //= prime
        return number == 1

    for samples in [*range(1, 200), 4801, 320_001]:
        found = fast_length(samples)
        expected = next(n for n in range(samples, 2 * samples + 1) if is_smooth(n))
        assert found == expected
