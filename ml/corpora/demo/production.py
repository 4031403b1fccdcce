"""The production character of a song, as a record has one: tone, room, saturation, noise floor.

The same character on all stems makes a song recognisable by ear without its notes. That is a
shortcut a retrieval model takes; the corpora ``demo-plain`` and ``demo-swapped`` show how much of
a score rests on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ml.corpora.demo.synths import RATE_HZ, resonances_db, shaped_noise

_EQ_FFT = 1 << 14
_NOISE_LOOP = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Character:
    """What production does to every stem of a song."""

    tilt_db: float
    """dB per octave, around 700 Hz."""
    bells: tuple[tuple[float, float, float], ...]
    """Wide peaks and dips: (Hz, width in octaves, gain in dB)."""
    low_cut_hz: float
    high_cut_hz: float
    decay_s: float
    """The room's decay by 60 dB."""
    wet_db: float
    """Level of the room's tail under the direct sound."""
    reflections: tuple[tuple[float, float], ...]
    """Early reflections: (delay in s, gain)."""
    damping_hz: float
    """Above this the tail is darker."""
    drive: float
    """Saturation, 0.2 to 1.6."""
    noise_db: float
    """Root mean square of the noise floor in dBFS."""
    noise_slope_db: float
    """Colour of the noise floor, dB per octave."""
    noise_peak_hz: float
    """Where the noise floor has a bump."""
    seed: int
    """Of the room's tail and the noise."""


def draw_character(rng: np.random.Generator) -> Character:
    """Draw the production of a song."""
    centres = 2 ** rng.uniform(np.log2([120, 500, 1800]), np.log2([600, 2200, 6500]))
    signs = rng.choice([-1, 1], size=3)
    delays = np.sort(rng.uniform(0.004, 0.06, size=int(rng.integers(2, 7))))
    return Character(
        tilt_db=float(rng.uniform(-3, 3)),
        bells=tuple(
            (float(hz), float(rng.uniform(0.25, 0.7)), float(sign * rng.uniform(5, 11)))
            for hz, sign in zip(centres, signs, strict=True)
        ),
        low_cut_hz=float(np.exp(rng.uniform(np.log(30), np.log(150)))),
        high_cut_hz=float(np.exp(rng.uniform(np.log(3500), np.log(9000)))),
        decay_s=float(np.exp(rng.uniform(np.log(0.12), np.log(1.3)))),
        wet_db=float(rng.uniform(-18, -1)),
        reflections=tuple((float(s), float(rng.uniform(-0.55, 0.55))) for s in delays),
        damping_hz=float(rng.uniform(1200, 6000)),
        drive=float(rng.uniform(0.2, 1.6)),
        noise_db=float(rng.uniform(-82, -67)),
        noise_slope_db=float(rng.uniform(-6, 3)),
        noise_peak_hz=float(np.exp(rng.uniform(np.log(150), np.log(6000)))),
        seed=int(rng.integers(1 << 31)),
    )


def produce(dry: np.ndarray, character: Character, rng: np.random.Generator) -> np.ndarray:
    """Apply a character to a stem.

    Args:
        dry: (samples,) float32 within ±1.
        character: what is applied.
        rng: where in the noise the stem starts.

    Returns:
        (samples,) float32 with the peak of ``dry`` (but for the noise floor).
    """
    samples = len(dry)
    n_fft = fast_length(samples + _tail_samples(character) + _EQ_FFT // 2)
    spectrum = np.fft.rfft(dry, n_fft)
    spectrum *= _response(character, n_fft)
    wet = np.fft.irfft(spectrum, n_fft)[:samples].astype(np.float32)
    drive = np.float32(character.drive)
    wet = np.tanh(wet * (drive / np.float32(_peak(wet)))) / np.tanh(drive)
    wet *= np.float32(_peak(dry))
    noise = _noise(character)
    first = int(rng.integers(len(noise)))
    wet += np.take(noise, np.arange(first, first + samples), mode="wrap")
    return wet


def fast_length(samples: int) -> int:
    """Find the smallest length of the form 2^a · 3^b · 5^c that is at least ``samples``."""
    best = 1 << (samples - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            two = 1 << max(0, (-(-samples // three) - 1).bit_length())
            best = min(best, three * two)
            three *= 3
        five *= 5
    return best


def _peak(waveform: np.ndarray) -> float:
    return float(max(waveform.max(), -waveform.min(), 1e-9))


def _tail_samples(character: Character) -> int:
    return round((character.decay_s + 0.06) * RATE_HZ)


@lru_cache(maxsize=2)
def _response(character: Character, n_fft: int) -> np.ndarray:
    """Compute tone and room in one: (bin,) complex."""
    room = _room(character)
    n_small = fast_length(len(room) + _EQ_FFT // 2)
    tone = _minimum_phase(_tone_db(character))
    impulse = np.fft.irfft(np.fft.rfft(room, n_small) * np.fft.rfft(tone, n_small), n_small)
    return np.fft.rfft(impulse, n_fft)


def _tone_db(character: Character) -> np.ndarray:
    hz = np.maximum(np.fft.rfftfreq(_EQ_FFT, 1 / RATE_HZ), 10.0)
    tone_db = np.clip(character.tilt_db * np.log2(hz / 700), -20, 20)
    tone_db += resonances_db(hz, character.bells)
    tone_db -= 10 * np.log10(1 + (character.low_cut_hz / hz) ** 4)
    tone_db -= 10 * np.log10(1 + (hz / character.high_cut_hz) ** 6)
    return np.maximum(tone_db, -60)


def _minimum_phase(level_db: np.ndarray) -> np.ndarray:
    """Find the impulse response of this spectrum that starts at once: (_EQ_FFT // 2,)."""
    cepstrum = np.fft.irfft(level_db * (np.log(10) / 20))
    half = len(cepstrum) // 2
    cepstrum[1:half] *= 2
    cepstrum[half + 1 :] = 0
    return np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))[:half]


def _room(character: Character) -> np.ndarray:
    rng = np.random.default_rng(character.seed)
    samples = _tail_samples(character)
    seconds = np.arange(samples) / RATE_HZ
    late = rng.standard_normal(samples) * np.exp(-6.9 * seconds / character.decay_s)
    spectrum = np.fft.rfft(late)
    hz = np.fft.rfftfreq(samples, 1 / RATE_HZ)
    tail = np.fft.irfft(spectrum / (1 + (hz / character.damping_hz) ** 2), samples)
    tail[: round(0.008 * RATE_HZ)] = 0
    room = tail * (10 ** (character.wet_db / 20) / np.sqrt(np.sum(tail**2)))
    room[0] = 1.0
    for delay_s, gain in character.reflections:
        room[round(delay_s * RATE_HZ)] += gain
    return room


@lru_cache(maxsize=2)
def _noise(character: Character) -> np.ndarray:
    """Make the noise floor: (_NOISE_LOOP,) float32 in full scale, repeats without a seam."""
    hz = np.maximum(np.fft.rfftfreq(_NOISE_LOOP, 1 / RATE_HZ), 40.0)
    level_db = character.noise_slope_db * np.log2(hz / 1000)
    level_db += resonances_db(hz, [(character.noise_peak_hz, 0.3, 12.0)])
    noise = shaped_noise(10 ** (level_db / 20), np.random.default_rng(character.seed + 1))
    return noise * np.float32(10 ** (character.noise_db / 20))
