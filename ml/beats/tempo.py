"""The tempo of a track from its beats, and the classes that scores are broken down by."""

from __future__ import annotations

import numpy as np

_EDGES_BPM = (80, 110, 140, 182)
TEMPO_CLASSES = ("below 80", "80-110", "110-140", "140-182", "182 and above")
"""In bpm; at 50 frames per second the decoder halves tempi of the last class."""


def tempo_bpm(beats: np.ndarray) -> float:
    """60 / the median distance of neighbours in ``beats`` (beat,); NaN with fewer than two."""
    return float(60 / np.median(np.diff(beats))) if len(beats) > 1 else float("nan")


def tempo_class(bpm: float) -> str | None:
    """The class of a tempo, of ``TEMPO_CLASSES``; None for NaN."""
    if np.isnan(bpm):
        return None
    return TEMPO_CLASSES[int(np.searchsorted(_EDGES_BPM, bpm, side="right"))]
