"""Beat times from an activation by picking its peaks: what the decoder is compared with."""

from __future__ import annotations

import numpy as np

from ml.beats.activation import checked_activation


def pick_peaks(
    activation: np.ndarray, fps: float, *, threshold: float = 0.3, min_distance_s: float = 0.14
) -> np.ndarray:
    """Times of the frames that are the highest around them.

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
