"""Beat-tracking scores of a track and of a set, and the published rows (Riou et al., Table II).

Conventions
-----------
Beats are times in s, one-dimensional and increasing. Everything before 5 s is left out of both
lists, as is usual since MIREX: listeners and trackers need time to settle.

* ``f_measure``: harmonic mean of precision and recall; a beat is right within ±70 ms.
* ``cmlt``: share of beats in correct runs (phase and period within 17.5 % of the annotated beat).
* ``amlt``: the same at the best of the allowed metrical levels: as annotated, twice, half, offbeat.

Empty lists: all scores are 0 where either list is empty after trimming, both included, and the
continuity scores also where a list has one beat; so ``mir_eval`` has it, and published figures
with it. An annotation that is empty after trimming cannot be scored at all, so ``score_set`` keeps
its track out of the means and lists it.

A track is one draw: means are over tracks, intervals by resampling tracks.

[tempo] The tempo of a track from its beats, and the classes that scores are broken down by.

[track_scores] Activations of one track by several models, decoded and scored.

Beside the probes stand rows that need none: the onset curve; ``annotation``, the decoders on the
labels themselves, which no probe can beat at 50 frames per second; and, as chance, a metronome.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.beats.dbn import DBNBeatDecoder
from ml.beats.peaks import metronome, pick_peaks
from ml.beats.probe import FPS, ProbeTrack, frame_labels
from ml.scores.intervals import Interval, TrackBootstrap

METRICS: tuple[str, ...] = ("f_measure", "cmlt", "amlt")


TRIM_S = 5.0
"""Beats before it do not count."""


_NO_TRACKS = Interval(value=np.nan, low=np.nan, high=np.nan)


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


@dataclass(frozen=True, kw_only=True, eq=False)
class SetScores:
    """Scores of the tracks of a set."""

    track_ids: tuple[str, ...]
    """Tracks that were scored."""
    values: dict[str, np.ndarray]
    """(track,) float64 of each of ``METRICS``, 0…1."""
    tempi_bpm: np.ndarray
    """(track,) float64: annotated tempo; NaN where only one beat is annotated."""
    unscored: tuple[str, ...] = ()
    """Tracks without an annotated beat at or after 5 s."""

    def only(self, chosen: np.ndarray) -> SetScores:
        """The tracks chosen by ``chosen`` (track,) bool or indices."""
        return SetScores(
            track_ids=tuple(np.array(self.track_ids, dtype=object)[chosen]),
            values={metric: values[chosen] for metric, values in self.values.items()},
            tempi_bpm=self.tempi_bpm[chosen],
        )


def beat_scores(reference: Any, estimate: Any) -> dict[str, float]:
    """Scores of one track, each 0…1; what empty lists give is said above.

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
    scores = dict.fromkeys(METRICS, 0.0)
    fewest = min(len(reference), len(estimate))
    if fewest:
        scores["f_measure"] = float(beat.f_measure(reference, estimate))
    if fewest > 1:
        _, cmlt, _, amlt = beat.continuity(reference, estimate)
        scores |= {"cmlt": float(cmlt), "amlt": float(amlt)}
    return scores


def score_set(
    references: Mapping[str, np.ndarray], estimates: Mapping[str, np.ndarray]
) -> SetScores:
    """Score all tracks of a set.

    Args:
        references: annotated times in s of each track.
        estimates: found times in s of the same tracks.

    Raises:
        ValueError: the tracks are not the same, or as ``beat_scores``.
    """
    if differing := sorted(references.keys() ^ estimates.keys()):
        raise ValueError(
            f"{len(differing)} tracks have beats on one side only ({', '.join(differing[:3])}…); "
            "expected annotated and found beats of the same tracks"
        )
    is_scored = {track: bool(np.any(np.asarray(b) >= TRIM_S)) for track, b in references.items()}
    track_ids = tuple(track for track in references if is_scored[track])
    rows = [beat_scores(references[track], estimates[track]) for track in track_ids]
    return SetScores(
        track_ids=track_ids,
        values={metric: np.array([row[metric] for row in rows]) for metric in METRICS},
        tempi_bpm=np.array([tempo_bpm(references[track]) for track in track_ids]),
        unscored=tuple(track for track in references if not is_scored[track]),
    )


def set_means(scores: SetScores, *, resamples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Mean over tracks of each metric with its 95 % interval; NaN without tracks."""
    if not scores.track_ids:
        return dict.fromkeys(METRICS, _NO_TRACKS)
    bootstrap = TrackBootstrap(scores.track_ids, resamples=resamples, seed=seed)
    return {metric: bootstrap.interval(scores.values[metric]) for metric in METRICS}


def set_differences(
    scores: SetScores, others: SetScores, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Means of ``scores`` minus those of ``others``, by a paired bootstrap over the same tracks.

    NaN without tracks.

    Raises:
        ValueError: the two hold different tracks, or in another order.
    """
    if scores.track_ids != others.track_ids:
        raise ValueError(
            f"the two sides hold {len(scores.track_ids)} and {len(others.track_ids)} tracks that "
            "are not the same in the same order; score both on the same annotations"
        )
    if not scores.track_ids:
        return dict.fromkeys(METRICS, _NO_TRACKS)
    bootstrap = TrackBootstrap(scores.track_ids, resamples=resamples, seed=seed)
    return {
        metric: bootstrap.difference(scores.values[metric], others.values[metric])
        for metric in METRICS
    }


def tempo_classes(scores: SetScores) -> dict[str, SetScores]:
    """The scores by the class of the annotated tempo; classes without tracks are left out."""
    classes = np.array([tempo_class(bpm) or "" for bpm in scores.tempi_bpm])
    found = {name: scores.only(classes == name) for name in TEMPO_CLASSES}
    return {name: some for name, some in found.items() if some.track_ids}


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


ANNOTATION = "annotation"
"""What tables call the decoders on the annotated beats."""


PEAK = "peak_"
"""In front of metrics of picked peaks; the others are of the dynamic Bayesian network."""


PRECISION = "average_precision"


TRACK_SCORES_METRICS = (*METRICS, *(PEAK + metric for metric in METRICS), PRECISION)
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
