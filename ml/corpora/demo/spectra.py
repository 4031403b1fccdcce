"""Spectra shared by synthesizer, drums and production: resonances, and noise of a given colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RATE_HZ = 16_000
"""Sampling rate of the demo corpus."""


def resonances_db(hz: np.ndarray, resonances: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """Sum of bells on a logarithmic frequency axis, in dB, at each ``hz``."""
    octaves = np.log2(np.maximum(hz, 1.0))
    total = np.zeros(len(hz))
    for centre_hz, width, gain_db in resonances:
        total += gain_db * np.exp(-0.5 * ((octaves - np.log2(centre_hz)) / width) ** 2)
    return total


def shaped_noise(gain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise with the given spectrum that repeats without a seam.

    Args:
        gain: (bin,) gain at ``np.fft.rfftfreq(2 * (bin - 1))``.
        rng: the phases.

    Returns:
        (2 * (bin - 1),) float32 with root mean square 1.
    """
    phases = np.exp(2j * np.pi * rng.random(len(gain)))
    noise = np.fft.irfft(gain * phases)
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)
