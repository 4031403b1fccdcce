"""What needs no learning: an onset curve and a metronome."""

from __future__ import annotations

import numpy as np

ONSETS = "onset curve"
"""What tables call the spectral flux."""


def onset_curve(mel: np.ndarray, frames: int) -> np.ndarray:
    """Spectral flux at 50 frames per second, as an activation.

    The sum over bins of the rises from the mel frame before a frame's time to the one after it
    (Böck, Krebs and Schedl, ISMIR 2012, without their maximum filter), over its largest value.

    Args:
        mel: (mel_frame, mel_bin), a log-mel of 100 frames per second.
        frames: length of the result.

    Returns:
        (frame,) float64, 0…1; frame n is at n / 50 s. Silence gives zeros.
    """
    before, after = np.roll(mel, 1, axis=0), np.roll(mel, -1, axis=0)
    before[0], after[-1] = mel[0], mel[-1]
    flux = np.maximum(after - before, 0).sum(axis=1, dtype=np.float64)[::2][:frames]
    largest = flux.max(initial=0.0)
    return flux / largest if largest > 0 else flux


def metronome(duration_s: float, bpm: float = 120.0) -> np.ndarray:
    """Beats at a fixed tempo from 0 s: what a guess without listening gets."""
    return np.arange(0, duration_s, 60 / bpm)
