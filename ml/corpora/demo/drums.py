"""The drums: each drum of a song's kit is rendered once and then placed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ml.corpora.demo.parts import (
    CONGA_HIGH,
    CONGA_LOW,
    CRASH,
    HAT,
    KICK,
    OPEN_HAT,
    SHAKER,
    SNARE,
    TOM_HIGH,
    TOM_LOW,
)
from ml.corpora.demo.score import Note
from ml.corpora.demo.spectra import RATE_HZ

Kit = dict[int, np.ndarray]
"""General MIDI number → the drum struck once: (samples,) float32."""


def acoustic_kit(rng: np.random.Generator) -> Kit:
    """A drum kit in a room: skins, wires, bronze."""
    return {
        KICK: _skin(rng, rng.uniform(48, 70), bend=1.8, decay_s=rng.uniform(0.07, 0.14), click=0.5),
        SNARE: _snare(rng, rng.uniform(160, 240), wires_s=rng.uniform(0.07, 0.16)),
        HAT: _bronze(rng, 5200, decay_s=rng.uniform(0.02, 0.05)),
        OPEN_HAT: _bronze(rng, 4800, decay_s=rng.uniform(0.15, 0.3)),
        CRASH: _bronze(rng, 3200, decay_s=rng.uniform(0.4, 0.8)) * np.float32(0.9),
        TOM_LOW: _skin(rng, rng.uniform(85, 110), bend=1.35, decay_s=0.18, click=0.3),
        TOM_HIGH: _skin(rng, rng.uniform(140, 180), bend=1.35, decay_s=0.15, click=0.3),
    }


def machine_kit(rng: np.random.Generator) -> Kit:
    """A drum machine: a long low kick, a clap, ticking hats."""
    kick = _skin(rng, rng.uniform(42, 55), bend=4.0, decay_s=rng.uniform(0.25, 0.5), click=0.05)
    return {
        KICK: kick,
        SNARE: _clap(rng),
        HAT: _tick(rng, decay_s=rng.uniform(0.012, 0.03)),
        OPEN_HAT: _tick(rng, decay_s=rng.uniform(0.12, 0.25)),
        CRASH: _tick(rng, decay_s=0.4),
        TOM_LOW: _skin(rng, 100, bend=2.2, decay_s=0.22, click=0.0),
        TOM_HIGH: _skin(rng, 170, bend=2.2, decay_s=0.2, click=0.0),
    }


def shaker_kit(rng: np.random.Generator) -> Kit:
    """A shaker: noise that swells and falls."""
    hz = rng.uniform(4500, 6000)
    seconds = _seconds(0.14)
    swell = seconds / 0.025 * np.exp(1 - seconds / 0.025)
    return {SHAKER: (_band(rng, len(seconds), hz, 0.35) * swell).astype(np.float32)}


def conga_kit(rng: np.random.Generator) -> Kit:
    """Two congas: short pitched skins without wires."""
    hz = rng.uniform(190, 240)
    return {
        CONGA_LOW: _skin(rng, hz, bend=1.08, decay_s=rng.uniform(0.08, 0.13), click=0.35),
        CONGA_HIGH: _skin(rng, hz * 1.5, bend=1.08, decay_s=rng.uniform(0.05, 0.09), click=0.45),
    }


def render_drums(notes: Sequence[Note], kit: Kit, samples: int) -> np.ndarray:
    """Place the drums of a kit: (samples,) float32 of no particular level."""
    stem = np.zeros(samples, np.float32)
    for note in notes:
        start = round(note.start_s * RATE_HZ)
        struck = kit[note.pitch][: max(0, samples - start)]
        stem[start : start + len(struck)] += struck * np.float32(note.velocity)
    return stem


KITS: dict[str, Callable[[np.random.Generator], Kit]] = {
    "acoustic": acoustic_kit,
    "machine": machine_kit,
    "shaker": shaker_kit,
    "congas": conga_kit,
}


def _seconds(duration_s: float) -> np.ndarray:
    return np.arange(round(duration_s * RATE_HZ)) / RATE_HZ


def _band(rng: np.random.Generator, samples: int, centre_hz: float, octaves: float) -> np.ndarray:
    """Noise around a frequency, root mean square 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    hz = np.maximum(np.fft.rfftfreq(samples, 1 / RATE_HZ), 1.0)
    spectrum *= np.exp(-0.5 * (np.log2(hz / centre_hz) / octaves) ** 2)
    noise = np.fft.irfft(spectrum, samples)
    return noise / np.sqrt(np.mean(noise**2))


def _skin(
    rng: np.random.Generator, hz: float, *, bend: float, decay_s: float, click: float
) -> np.ndarray:
    """A struck skin whose pitch falls from ``bend`` times to ``hz``."""
    seconds = _seconds(6 * decay_s)
    falling = hz * (1 + (bend - 1) * np.exp(-seconds / 0.025))
    body = np.sin(2 * np.pi * np.cumsum(falling) / RATE_HZ) * np.exp(-seconds / decay_s)
    body += 0.25 * np.sin(2 * np.pi * 1.59 * hz * seconds) * np.exp(-seconds / (0.4 * decay_s))
    body += click * _band(rng, len(seconds), 2500, 0.7) * np.exp(-seconds / 0.004)
    return _struck(body, seconds)


def _snare(rng: np.random.Generator, hz: float, *, wires_s: float) -> np.ndarray:
    seconds = _seconds(6 * wires_s)
    body = np.sin(2 * np.pi * hz * seconds) + 0.6 * np.sin(2 * np.pi * 1.78 * hz * seconds)
    wires = _band(rng, len(seconds), rng.uniform(2200, 4000), 0.9)
    return _struck(
        0.55 * body * np.exp(-seconds / 0.06) + 0.5 * wires * np.exp(-seconds / wires_s), seconds
    )


def _bronze(rng: np.random.Generator, low_hz: float, *, decay_s: float) -> np.ndarray:
    """A cymbal: noise above ``low_hz`` with a few ringing partials."""
    seconds = _seconds(6 * decay_s)
    noise = _band(rng, len(seconds), low_hz * 1.25, 0.35)
    for hz in rng.uniform(low_hz, 7500, size=6):
        noise += 0.25 * np.sin(2 * np.pi * hz * seconds + rng.uniform(0, 6))
    return _struck(0.3 * noise * np.exp(-seconds / decay_s), seconds)


def _clap(rng: np.random.Generator) -> np.ndarray:
    seconds = _seconds(0.4)
    noise = _band(rng, len(seconds), rng.uniform(1000, 1600), 0.45)
    level = 0.5 * np.exp(-seconds / rng.uniform(0.04, 0.09))
    for late_s in (0.0, 0.011, 0.022):
        since = seconds - late_s
        level += np.where(since >= 0, np.exp(-np.maximum(since, 0) / 0.004), 0)
    return _struck(0.4 * noise * level, seconds)


def _tick(rng: np.random.Generator, *, decay_s: float) -> np.ndarray:
    """A synthetic hat: six square waves, only their top."""
    seconds = _seconds(6 * decay_s)
    squares = sum(np.sign(np.sin(2 * np.pi * hz * seconds)) for hz in rng.uniform(400, 1400, 6))
    top = np.diff(np.diff(squares, prepend=0), prepend=0)
    return _struck(0.06 * top * np.exp(-seconds / decay_s), seconds)


def _struck(sound: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Fade the end out so that it stops without a click."""
    left_s = seconds[-1] - seconds
    return (sound * np.minimum(1, left_s / 0.01)).astype(np.float32)
