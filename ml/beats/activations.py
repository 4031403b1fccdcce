"""Beat activations of a corpus, one for each row of the table: probes, onsets, the annotation.

Of a corpus that probes were trained on, a track is predicted by the probe that has not seen it; of
any other, by the mean of the folds' probes, and by the one probe that was trained on all folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml.artifacts import DataLayout
from ml.beats.beat_sets import probe_tracks
from ml.beats.features import LOG_MEL, BeatInput
from ml.beats.peaks import ONSETS, onset_curve
from ml.beats.probe import FPS, ProbeTrack
from ml.beats.probes import ALL, SPLIT, StoredProbe, read_probe_manifest, read_probes
from ml.beats.scores import ANNOTATION, Activation, annotation_activation, is_scorable
from ml.corpora.readers.beats import BeatSet

ONE_PROBE = " (one probe)"
"""Behind a model: the probe trained on all folds; without it the mean of the folds' probes."""
ONSET_THRESHOLD = 0.1
"""Lowest height of a peak of the onset curve: the best of ten on demo songs for training."""
ANNOTATION_THRESHOLD = 0.9
"""Between a beat's label and its neighbours'."""


class CorpusActivations:
    """Activations of the tracks of a corpus, by row of the table.

    Raises:
        ArtifactError: features or probes are missing, or belong to another encoder.
        ValueError: no track is left to score.
    """

    def __init__(
        self, corpus: str, beat_set: BeatSet, inputs: Sequence[BeatInput], layout: DataLayout
    ):
        self._probed = [
            _ProbedInput(
                source=source,
                probes=read_probes(layout, source.name, source.model_id),
                trained_on=frozenset(read_probe_manifest(layout, source.name)["identity"]["beats"]),
                tracks=probe_tracks(corpus, beat_set, layout, source.model_id),
            )
            for source in inputs
        ]
        self.tracks = self._probed[0].tracks
        tested = [place for place, t in enumerate(self.tracks) if t.group not in ("train", "valid")]
        self.places = [place for place in tested if is_scorable(self.tracks[place])]
        """Of the tracks to score: no probe that predicts one was trained on it."""
        self.unscorable = len(tested) - len(self.places)
        """How many have no annotated beat at or after 5 s."""
        if not self.places:
            raise ValueError(
                f"no track of {corpus} can be scored: {len(self.tracks)} have beats and features, "
                f"{len(tested)} of them are not for training, none has a beat at or after 5 s"
            )

    def predict(self, place: int) -> dict[str, Activation]:
        """Predict the activation of a track by each row of the table."""
        track = self.tracks[place]
        activations: dict[str, Activation] = {}
        for probed in self._probed:
            activations |= probed.predict(place)
        mel = self.log_mel(place)
        if mel is not None:
            curve = onset_curve(mel, self.mel_fps, FPS, track.frames)
            activations[ONSETS] = Activation(values=curve, peak_threshold=ONSET_THRESHOLD)
        activations[ANNOTATION] = Activation(
            values=annotation_activation(track), peak_threshold=ANNOTATION_THRESHOLD
        )
        return activations

    @property
    def mel_fps(self) -> float:
        """Frames per second of ``log_mel``."""
        (rate,) = (1 / p.source.frame_s for p in self._probed if p.source.name == LOG_MEL)
        return rate

    def log_mel(self, place: int) -> np.ndarray | None:
        """Read the (mel_frame, mel_bin) of a track; None: ``log-mel`` is not among the inputs."""
        for probed in self._probed:
            if probed.source.name == LOG_MEL:
                steps = probed.tracks[place].read(0).astype(np.float32)
                bins = probed.source.log_mel.config.mel_bins
                return steps.reshape(len(steps), bins, -1).transpose(0, 2, 1).reshape(-1, bins)
        return None


@dataclass(frozen=True, kw_only=True)
class _ProbedInput:
    """An input with its probes and its features of a corpus."""

    source: BeatInput
    probes: Mapping[str, StoredProbe]
    trained_on: frozenset[str]
    """Corpora of the probes' training."""
    tracks: Sequence[ProbeTrack]

    def predict(self, place: int) -> dict[str, Activation]:
        """Predict by the probe that has not seen a track, or by all of them."""
        track, name = self.tracks[place], self.source.name
        if track.corpus in self.trained_on:
            fold = SPLIT if track.group == "test" else f"fold-{track.group}"
            return {name: self._mean(track, [fold])}
        folds = [fold for fold in self.probes if fold != ALL]
        activations = {name: self._mean(track, folds)}
        if len(folds) > 1:
            activations[name + ONE_PROBE] = self._mean(track, [ALL])
        return activations

    def _mean(self, track: ProbeTrack, folds: Sequence[str]) -> Activation:
        used = [self.probes[fold] for fold in folds]
        features = {stored.row: track.read(stored.row) for stored in used}
        values = [stored.probe.activation(features[stored.row], track.frames) for stored in used]
        return Activation(
            values=np.mean(values, axis=0),
            peak_threshold=float(np.median([stored.peak_threshold for stored in used])),
        )
