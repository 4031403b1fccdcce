"""Scores of beats: of a track, what chance gets, and the published rows (Riou et al., Table II).

Beats are times in s, one-dimensional and increasing. Everything before 5 s is left out of both
lists, as is usual since MIREX: listeners and trackers need time to settle.

* ``f_measure``: harmonic mean of precision and recall; a beat is right within ±70 ms.
* ``cmlt``: share of beats in correct runs (phase and period within 17.5 % of the annotated beat).
* ``amlt``: the same at the best of the allowed metrical levels: as annotated, twice, half, offbeat.

Empty lists: all scores are 0 where either list is empty after trimming, both included, and the
continuity scores also where a list has one beat; so ``mir_eval`` has it, and published figures
with it. A track whose annotation is empty after trimming cannot be scored (``is_scorable``).

A track's activation is scored by the decoder's beats, by picked peaks (``peak_f_measure``, …) and,
frame by frame, by its average precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.beats.dbn import DBNBeatDecoder
from ml.beats.peaks import metronome, pick_peaks
from ml.beats.probe import FPS, ProbeTrack, frame_labels

METRICS = ("f_measure", "cmlt", "amlt")
PEAK = "peak_"
"""In front of metrics of picked peaks; the others are of the dynamic Bayesian network."""
PRECISION = "average_precision"
ANNOTATION = "annotation"
"""What tables call the decoders on the annotated beats."""
TRIM_S = 5.0
"""Beats before it do not count."""
NEIGHBOURS = 1
"""Frames beside a beat that the average precision leaves out: ±20 ms. Counting them as right or as
wrong rewards one width of the peaks; left out, the figure hardly depends on how labels were
widened."""
TEMPO_CLASSES = ("below 80", "80-110", "110-140", "140-182", "182 and above")
"""In bpm; at 50 frames per second the decoder halves tempi of the last class."""
_EDGES_BPM = (80, 110, 140, 182)


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """What others report on a set: mean scores over its tracks, 0…1."""

    system: str
    set_name: str
    f_measure: float
    cmlt: float
    amlt: float


PUBLISHED = (
    PublishedRow(system="Riou et al.", set_name="gtzan", f_measure=0.845, cmlt=0.741, amlt=0.917),
    PublishedRow(system="Riou et al.", set_name="smc", f_measure=0.534, cmlt=0.440, amlt=0.654),
    PublishedRow(
        system="Gagneré et al.", set_name="gtzan", f_measure=0.876, cmlt=0.802, amlt=0.918
    ),
    PublishedRow(system="Gagneré et al.", set_name="smc", f_measure=0.567, cmlt=0.480, amlt=0.651),
    PublishedRow(system="Böck et al.", set_name="gtzan", f_measure=0.885, cmlt=0.885, amlt=0.931),
    PublishedRow(system="Böck et al.", set_name="smc", f_measure=0.552, cmlt=0.514, amlt=0.663),
)
"""Table II. Riou et al. and Gagneré et al. are probes on frozen features, Böck et al. a network
trained for beats."""


PUBLISHED_SETS = frozenset({"ballroom", "hainsworth", "smc", "harmonix"})
"""What the probes of Riou et al. are trained on; GTZAN by none of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Activation:
    """How much each frame of a track is a beat, and when its peaks count."""

    values: np.ndarray
    """(frame,) 0…1."""
    peak_threshold: float
    """Lowest height of a picked peak."""


def beat_scores(reference: Any, estimate: Any) -> dict[str, float]:
    """Score the beats of one track, each metric 0…1; what empty lists give is said above.

    Args:
        reference: (beat,) annotated times in s, increasing.
        estimate: (beat,) found times in s, increasing.

    Raises:
        ValueError: another shape, times that are negative or not finite or do not increase.
    """
    from mir_eval import beat

    reference, estimate = (
        beat.trim_beats(_checked(name, times), TRIM_S)
        for name, times in (("reference", reference), ("estimate", estimate))
    )
    scores: dict[str, float] = dict.fromkeys(METRICS, 0.0)
    fewest = min(len(reference), len(estimate))
    if fewest:
        scores["f_measure"] = float(beat.f_measure(reference, estimate))
    if fewest > 1:
        _, cmlt, _, amlt = beat.continuity(reference, estimate)
        scores |= {"cmlt": float(cmlt), "amlt": float(amlt)}
    return scores


def tempo_bpm(beats: np.ndarray) -> float:
    """Take the tempo of ``beats`` (beat,) by their median distance; NaN with fewer than two."""
    return float(60 / np.median(np.diff(beats))) if len(beats) > 1 else float("nan")


def tempo_class(bpm: float) -> str | None:
    """Name the class of a tempo, of ``TEMPO_CLASSES``; None for NaN."""
    if np.isnan(bpm):
        return None
    return TEMPO_CLASSES[int(np.searchsorted(_EDGES_BPM, bpm, side="right"))]


def is_scorable(track: ProbeTrack) -> bool:
    """Tell whether some beat is annotated where beats count."""
    return bool(np.any(track.beats >= TRIM_S))


def score_track(
    track: ProbeTrack, activation: Activation, decoder: DBNBeatDecoder
) -> dict[str, float]:
    """Decode and score an activation of a track: ``ml.metrics.BEATS``, 0…1."""
    values = activation.values
    peaks = pick_peaks(values, FPS, threshold=activation.peak_threshold)
    is_beat, counts = _beat_frames(track)
    precision = average_precision(values[counts], is_beat[counts])
    return _figures(
        beat_scores(track.beats, decoder(values)), beat_scores(track.beats, peaks), precision
    )


def chance_scores(track: ProbeTrack) -> dict[str, float]:
    """Score what is known without listening: a metronome at 120 bpm, the share of beat frames."""
    guessed = beat_scores(track.beats, metronome(track.frames / FPS))
    is_beat, counts = _beat_frames(track)
    return _figures(guessed, guessed, float(is_beat[counts].mean()))


def annotation_activation(track: ProbeTrack) -> np.ndarray:
    """Take the labels for an activation: (frame,) float64."""
    labels = frame_labels(track.beats, track.steps, track.probes, (0.5,))
    return labels.ravel()[: track.frames].astype(np.float64)


def average_precision(activation: np.ndarray, is_beat: np.ndarray) -> float:
    """Average over beat frames the precision among all frames that are at least as high.

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


def _figures(
    decoded: dict[str, float], picked: dict[str, float], precision: float
) -> dict[str, float]:
    by_peaks = {PEAK + metric: value for metric, value in picked.items()}
    return {**decoded, **by_peaks, PRECISION: precision}


def _beat_frames(track: ProbeTrack) -> tuple[np.ndarray, np.ndarray]:
    """Tell which frames are beats, and which count: (frame,) bool each."""
    weights = (0.5,) * NEIGHBOURS
    labels = frame_labels(track.beats, track.steps, track.probes, weights).ravel()[: track.frames]
    return labels == 1, (labels == 0) | (labels == 1)


def _checked(name: str, times: Any) -> np.ndarray:
    beats = np.asarray(times, dtype=np.float64)
    is_right = beats.ndim == 1 and np.isfinite(beats).all()
    if not is_right or (beats < 0).any() or (np.diff(beats) <= 0).any():
        raise ValueError(
            f"the {name} beats have shape {beats.shape}"
            + (f" and run from {beats.min()} to {beats.max()}" if beats.size else "")
            + "; expected (beat,): finite times in s, at least 0 and increasing"
        )
    return beats
