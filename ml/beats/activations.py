"""Which probe listens to which track of a corpus, and what it makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml.artifacts import DataLayout
from ml.beats.beat_sets import probe_tracks
from ml.beats.features import LOG_MEL, BeatInput
from ml.beats.peaks import ONSETS, onset_curve
from ml.beats.probe import ProbeTrack
from ml.beats.probes import ALL, SPLIT, StoredProbe, read_probe_manifest, read_probes
from ml.beats.scores import ANNOTATION, Heard, annotation_activation, is_scorable
from ml.corpora.readers.beats import BeatSet

ONE_PROBE = " (one probe)"
"""Behind a model: the probe trained on all folds; without it the mean of the folds' probes."""
ONSET_THRESHOLD = 0.1
"""Lowest height of a peak of the onset curve: the best of ten on demo songs for training."""
ANNOTATION_THRESHOLD = 0.9
"""Between a beat's label and its neighbours'."""


@dataclass(frozen=True, kw_only=True)
class _Ear:
    """An input with its probes and its features of a corpus."""

    source: BeatInput
    probes: Mapping[str, StoredProbe]
    trained_on: frozenset[str]
    """Corpora of the probes' training."""
    tracks: Sequence[ProbeTrack]

    def hear(self, place: int) -> dict[str, Heard]:
        """By row of the table: the probe that has not seen a track, or all of them."""
        track, name = self.tracks[place], self.source.name
        if track.corpus in self.trained_on:
            group = track.group
            return {name: self._heard(track, [SPLIT if group == "test" else f"fold-{group}"])}
        folds = [fold for fold in self.probes if fold != ALL]
        found = {name: self._heard(track, folds)}
        if len(folds) > 1:
            found[name + ONE_PROBE] = self._heard(track, [ALL])
        return found

    def _heard(self, track: ProbeTrack, names: Sequence[str]) -> Heard:
        """The mean of some probes."""
        used = [self.probes[name] for name in names]
        features = {probe.row: track.read(probe.row) for probe in used}
        found = [probe.probe.activation(features[probe.row], track.frames) for probe in used]
        return Heard(
            activation=np.mean(found, axis=0),
            peak_threshold=float(np.median([probe.peak_threshold for probe in used])),
        )


class Listeners:
    """All rows of the table for the tracks of a corpus.

    Args:
        corpus: its name.
        found: its beats.
        inputs: whose features and probes were made.
        layout: where they lie.

    Raises:
        ArtifactError: features or probes are missing, or belong to another encoder.
        ValueError: no track is left to score.
    """

    def __init__(
        self, corpus: str, found: BeatSet, inputs: Sequence[BeatInput], layout: DataLayout
    ):
        self._ears = [
            _Ear(
                source=source,
                probes=read_probes(layout, source.name, source.model_id),
                trained_on=frozenset(read_probe_manifest(layout, source.name)["identity"]["beats"]),
                tracks=probe_tracks(corpus, found, layout, source.model_id),
            )
            for source in inputs
        ]
        self.tracks = self._ears[0].tracks
        tested = [place for place, t in enumerate(self.tracks) if t.group not in ("train", "valid")]
        self.places = [place for place in tested if is_scorable(self.tracks[place])]
        """Of the tracks to score: none was trained on by the probe that hears it."""
        self.unscorable = len(tested) - len(self.places)
        """How many have no annotated beat at or after 5 s."""
        if not self.places:
            raise ValueError(
                f"no track of {corpus} can be scored: {len(self.tracks)} have beats and features, "
                f"{len(tested)} of them are not for training, none has a beat at or after 5 s"
            )

    def hear(self, place: int) -> dict[str, Heard]:
        """What each row of the table makes of a track."""
        heard: dict[str, Heard] = {}
        for ear in self._ears:
            heard |= ear.hear(place)
        mel = self.log_mel(place)
        if mel is not None:
            track = self.tracks[place]
            curve = onset_curve(mel, track.frames)
            heard[ONSETS] = Heard(activation=curve, peak_threshold=ONSET_THRESHOLD)
        heard[ANNOTATION] = Heard(
            activation=annotation_activation(self.tracks[place]),
            peak_threshold=ANNOTATION_THRESHOLD,
        )
        return heard

    def log_mel(self, place: int) -> np.ndarray | None:
        """(mel_frame, mel_bin) of a track; None where ``log-mel`` is not among the inputs."""
        for ear in self._ears:
            if ear.source.name == LOG_MEL:
                steps = ear.tracks[place].read(0).astype(np.float32)
                bins = ear.source.log_mel.config.mel_bins
                return steps.reshape(len(steps), bins, -1).transpose(0, 2, 1).reshape(-1, bins)
        return None
