"""Beats without a model of tempo: picked peaks, an onset curve, a metronome.

The decoder (``ml.beats.dbn``) is compared with picked peaks, probes with the onset curve, which
needs no learning, and everything with a metronome, which needs no listening. An *activation* is
the probability of a beat in each frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np

ONSETS = "onset curve"
"""What tables call the spectral flux."""


def pick_peaks(
    activation: np.ndarray, fps: float, *, threshold: float = 0.3, min_distance_s: float = 0.14
) -> np.ndarray:
    """Find the times of the frames that are the highest around them.

    A frame is a peak if it is at least ``threshold``, above 0, and no frame within
    ``min_distance_s`` is higher; of equally high ones the first counts. Peaks are thus further
    apart than ``min_distance_s``, whose default is half a beat of the fastest tempo that the
    decoder knows.

    Args:
        activation: (frame,) probability of a beat in each frame, 0…1.
        fps: frames per second; frame n is at n / fps s.
        threshold: lowest height of a peak.
        min_distance_s: half-width of what a peak must dominate, in s.

    Returns:
        (beat,) float64: times in s, increasing.

    Raises:
        ValueError: a wrong shape, NaN, infinite, or outside of 0…1; a parameter out of range.
    """
    if not (0 < fps < np.inf and 0 <= threshold <= 1 and 0 <= min_distance_s < np.inf):
        raise ValueError(
            f"fps = {fps}, threshold = {threshold}, min_distance_s = {min_distance_s}; expected "
            "fps above 0, a threshold from 0 to 1 and a distance of at least 0 s"
        )
    values = checked_activation(activation)
    candidates = np.flatnonzero((values >= threshold) & (values > 0))
    # 1e-9: 0.14 s at 50 frames per second are 7 frames, whichever way the product is rounded.
    reach = min(int(min_distance_s * fps + 1e-9), len(values))
    nothing = np.full(reach, -1.0)
    padded = np.concatenate([nothing, values, nothing])
    # (candidate, frames around it)
    around = padded[candidates[:, None] + np.arange(2 * reach + 1)]
    return candidates[around.argmax(axis=1) == reach] / fps


def onset_curve(mel: np.ndarray, mel_fps: float, fps: float, frames: int) -> np.ndarray:
    """Compute the spectral flux as an activation.

    The sum over bins of the rises from the mel frame before a frame's time to the one after it
    (Böck, Krebs and Schedl, ISMIR 2012, without their maximum filter), over its largest value.

    Args:
        mel: (mel_frame, mel_bin), a log-mel.
        mel_fps: its frames per second, as many as ``fps`` or more.
        fps: frames per second of the result.
        frames: length of the result.

    Returns:
        (frame,) float64, 0…1; frame n is at n / fps s. Silence gives zeros.
    """
    before, after = np.roll(mel, 1, axis=0), np.roll(mel, -1, axis=0)
    before[0], after[-1] = mel[0], mel[-1]
    flux = np.maximum(after - before, 0).sum(axis=1, dtype=np.float64)
    places = np.rint(np.arange(frames) * mel_fps / fps).astype(np.int64)
    flux = flux[places[places < len(flux)]]
    largest = flux.max(initial=0.0)
    return flux / largest if largest > 0 else flux


def metronome(duration_s: float) -> np.ndarray:
    """Beat at 120 bpm from 0 s: what a guess without listening gets."""
    return np.arange(0, duration_s, 0.5)


def checked_activation(activation: Any) -> np.ndarray:
    """Check a beat activation and make it (frame,) float64.

    Args:
        activation: (frame,) probability of a beat in each frame, 0…1; may be empty.

    Raises:
        ValueError: another shape, NaN, infinite, or outside of 0…1; names the first such frame.
    """
    values = np.asarray(activation, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(
            f"the beat activation has shape {values.shape}; expected (frame,): one probability "
            "per frame of one recording"
        )
    is_wrong = ~((values >= 0) & (values <= 1))
    if is_wrong.any():
        frame = int(is_wrong.argmax())
        raise ValueError(
            f"the beat activation is {values[frame]} in frame {frame} ({is_wrong.sum()} of "
            f"{len(values)} frames are like that); expected probabilities from 0 to 1 (logits need "
            "a sigmoid)"
        )
    return values
