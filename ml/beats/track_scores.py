"""Activations of one track by several models, decoded and scored.

Beside the probes stand rows that need none: the onset curve; ``annotation``, the decoders on the
labels themselves, which no probe can beat at 50 frames per second; and, as chance, a metronome.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ml.beats.dbn import DBNBeatDecoder
from ml.beats.evaluate import METRICS as BEAT_METRICS
from ml.beats.evaluate import TRIM_S, beat_scores
from ml.beats.onsets import metronome
from ml.beats.peaks import pick_peaks
from ml.beats.probe import FPS, frame_labels
from ml.beats.probe_tracks import ProbeTrack

ANNOTATION = "annotation"
"""What tables call the decoders on the annotated beats."""
PEAK = "peak_"
"""In front of metrics of picked peaks; the others are of the dynamic Bayesian network."""
PRECISION = "average_precision"
METRICS = (*BEAT_METRICS, *(PEAK + metric for metric in BEAT_METRICS), PRECISION)
"""All figures of a track, 0…1."""
NEIGHBOURS = 1
"""Frames beside a beat that the average precision leaves out: ±20 ms. Counting them as right or as
wrong rewards one width of the peaks; left out, the figure hardly depends on how labels were
widened."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Heard:
    """What a model makes of a track."""

    activation: np.ndarray
    """(frame,) 0…1."""
    peak_threshold: float
    """Lowest height of a picked peak."""


def is_scorable(track: ProbeTrack) -> bool:
    """Whether some beat is annotated where beats count."""
    return bool(np.any(track.beats >= TRIM_S))


def score_track(track: ProbeTrack, heard: Heard, decoder: DBNBeatDecoder) -> dict[str, float]:
    """Decode and score an activation of a track: ``METRICS``, 0…1."""
    values = dict(beat_scores(track.beats, decoder(heard.activation)))
    peaks = pick_peaks(heard.activation, FPS, threshold=heard.peak_threshold)
    by_peaks = beat_scores(track.beats, peaks)
    values |= {PEAK + metric: value for metric, value in by_peaks.items()}
    is_beat, counts = _beat_frames(track)
    values[PRECISION] = average_precision(heard.activation[counts], is_beat[counts])
    return values


def chance_values(track: ProbeTrack) -> dict[str, float]:
    """What ``METRICS`` are without listening: a metronome at 120 bpm, the share of beat frames."""
    guessed = beat_scores(track.beats, metronome(track.frames / FPS))
    by_peaks: Mapping[str, float] = {PEAK + metric: value for metric, value in guessed.items()}
    is_beat, counts = _beat_frames(track)
    return {**guessed, **by_peaks, PRECISION: float(is_beat[counts].mean())}


def annotation_activation(track: ProbeTrack) -> np.ndarray:
    """The labels as an activation: (frame,) float64."""
    labels = frame_labels(track.beats, track.steps, (0.5,))
    return labels.ravel()[: track.frames].astype(np.float64)


def average_precision(activation: np.ndarray, is_beat: np.ndarray) -> float:
    """Mean over beat frames of the precision among all frames that are at least as high.

    Args:
        activation: (frame,)
        is_beat: (frame,) bool.

    Returns:
        0…1; a constant activation has the share of beat frames, no beat frame gives NaN.
    """
    order = np.argsort(-activation, kind="stable")
    falling, hits = -activation[order], np.cumsum(is_beat[order])
    # Of equally high frames all count at once: their order in time says nothing.
    last = np.searchsorted(falling, falling, side="right") - 1
    precision = hits[last] / (last + 1)
    return float(precision[is_beat[order]].mean()) if hits[-1] else float("nan")


def _beat_frames(track: ProbeTrack) -> tuple[np.ndarray, np.ndarray]:
    """Which frames are beats, and which count: (frame,) bool each."""
    labels = frame_labels(track.beats, track.steps, (0.5,) * NEIGHBOURS).ravel()[: track.frames]
    return labels == 1, (labels == 0) | (labels == 1)
