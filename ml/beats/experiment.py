"""Table II: probes on frozen encoders beside what needs none, on every corpus with beats.

A track's *activation* is predicted by the probe that has not seen its fold or split; of corpora
that nothing is trained on by the mean of all folds' probes, and by the one probe trained on all of
them. Beside them stand the onset curve; ``annotation``, the decoders on the labels themselves,
which no probe can beat at 50 frames per second; and, as chance, a metronome. The first 5 s of a
track do not count for beats (``ml.beats.evaluate``), but do for the average precision of frames.
Intervals come from resampling tracks, differences from the same draws.

``examples.npz`` beside the scores has a few tracks to look at: log-mel, activations, decoded beats
and annotation of some seconds, in arrays named ``<example>/<what>``, with the model behind
``activation`` and ``beats``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml.artifacts import Artifact, DataLayout, write_aside
from ml.beats.beat_sets import beats_version, probe_tracks
from ml.beats.dbn import DBNBeatDecoder
from ml.beats.evaluate import (
    ANNOTATION,
    Activation,
    annotation_activation,
    chance_scores,
    is_scorable,
    score_track,
    tempo_bpm,
)
from ml.beats.feature_files import read_features_manifest
from ml.beats.features import LOG_MEL, BeatInput
from ml.beats.peaks import ONSETS, onset_curve
from ml.beats.probe import FPS, ProbeTrack
from ml.beats.probes import ALL, SPLIT, StoredProbe, read_probe_manifest, read_probes
from ml.corpora.readers.beats import BeatSet
from ml.metrics import BEATS
from ml.parquet import write_table
from ml.progress import progress
from ml.scores.files import Evaluated, evaluate_once, score_row
from ml.scores.intervals import Interval, TrackBootstrap
from ml.training.models import UNTRAINED

EXAMPLES = "examples.npz"
EXCERPT_S = 8.0
_START_S = 8.0
_FROM = " (from "
"""In names of rows by a decoder of slower tempi."""
EVALUATION = "beats"
PAIRED = "beats-paired"
ALL_TRACKS = "all tracks"
"""The conditioning of the rows: beats have none."""
REFERENCES = (UNTRAINED, LOG_MEL)
"""What the others are compared with, track by track."""
BARE = (*REFERENCES, ONSETS, ANNOTATION)
"""Rows without a trained encoder."""
SUMMARISED = ("f_measure", "peak_f_measure", "average_precision")
TRACKS = "tracks.parquet"
"""One row a track and model: annotated tempo and all figures in percent."""

Table = dict[str, dict[str, np.ndarray]]
"""Model → metric → (track,) 0…1."""
ONE_PROBE = " (one probe)"
"""Behind a model: the probe trained on all folds; without it the mean of the folds' probes."""
ONSET_THRESHOLD = 0.1
"""Lowest height of a peak of the onset curve: the best of ten on demo songs for training."""
ANNOTATION_THRESHOLD = 0.9
"""Between a beat's label and its neighbours'."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BeatExample:
    """Some seconds of a track."""

    track_id: str
    start_s: float
    """Where the excerpt begins in its track; all times below count from the track's start."""
    mel: np.ndarray | None
    """(mel_frame, mel_bin), 100 frames per second."""
    activations: Mapping[str, np.ndarray]
    """By model: (frame,), 50 frames per second."""
    beats: Mapping[str, np.ndarray]
    """By model: (beat,) times in s by the dynamic Bayesian network."""
    reference: np.ndarray
    """(beat,) annotated times in s."""


def write_examples(
    corpus: CorpusActivations, places: Sequence[int], models: Sequence[str], folder: Path
) -> None:
    """Write excerpts of the tracks at some places, with the beats that some models find there."""
    decoder = DBNBeatDecoder(FPS)
    arrays: dict[str, np.ndarray] = {}
    for number, place in enumerate(places):
        track = corpus.tracks[place]
        length_s = track.frames / FPS
        # Whole seconds: both frame rates begin at the same time.
        start_s = float(math.floor(min(_START_S, max(0.0, length_s - EXCERPT_S))))
        stop_s = start_s + EXCERPT_S
        own = {"track_id": np.array(track.track_id), "start_s": np.array(start_s)}
        own["reference"] = _between(track.beats, start_s, stop_s)
        mel = corpus.log_mel(place)
        if mel is not None:
            first, stop = (round(corpus.mel_fps * time_s) for time_s in (start_s, stop_s))
            own["mel"] = mel[first:stop].astype(np.float16)
        activations = corpus.predict(place)
        for model in models:
            activation = activations[model].values
            excerpt = activation[round(FPS * start_s) : round(FPS * stop_s)]
            own[f"activation/{model}"] = excerpt.astype(np.float16)
            own[f"beats/{model}"] = _between(decoder(activation), start_s, stop_s)
        arrays |= {f"{number}/{name}": values for name, values in own.items()}
    with write_aside(folder / EXAMPLES) as aside, aside.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]


def read_examples(folder: Path) -> list[BeatExample]:
    """Read the examples beside the scores of a corpus; none where the file is missing."""
    if not (folder / EXAMPLES).is_file():
        return []
    with np.load(folder / EXAMPLES) as file:
        arrays = {name: file[name] for name in file.files}
    numbers = sorted({int(name.partition("/")[0]) for name in arrays})
    return [_example({n: a for n, a in arrays.items() if n.startswith(f"{i}/")}) for i in numbers]


def _example(arrays: Mapping[str, np.ndarray]) -> BeatExample:
    own = {name.partition("/")[2]: values for name, values in arrays.items()}

    def by_model(kind: str) -> dict[str, np.ndarray]:
        return {n.partition("/")[2]: a for n, a in own.items() if n.startswith(f"{kind}/")}

    return BeatExample(
        track_id=str(own["track_id"]),
        start_s=float(own["start_s"]),
        mel=own.get("mel"),
        activations=by_model("activation"),
        beats=by_model("beats"),
        reference=own["reference"],
    )


def _between(times: np.ndarray, start_s: float, stop_s: float) -> np.ndarray:
    return times[(times >= start_s) & (times < stop_s)]


def build_beat_scores(
    corpus: str,
    beat_set: BeatSet,
    inputs: Sequence[BeatInput],
    layout: DataLayout,
    *,
    min_bpm: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Artifact:
    """Score the probes of all inputs on a corpus.

    Args:
        corpus: its name; its features must have been made by all inputs.
        beat_set: its beats.
        inputs: what to compare; their probes must have been trained.
        layout: where everything lies.
        min_bpm: add rows of a decoder that goes down to this tempo (a fifth of SMC is below 55).
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The scores of ``EVALUATION`` and ``PAIRED`` (``ml.scores.files``), with
        ``TRACKS`` and ``ml.beats.experiment`` beside them.

    Raises:
        ArtifactError: features or probes are missing, or belong to another encoder.
        ValueError: no track is left to score.
    """
    identity = {
        "corpus": corpus,
        "beats": beats_version(beat_set),
        "inputs": [_versions(source, corpus, layout) for source in inputs],
        "resamples": resamples,
        "seed": seed,
        **({} if min_bpm is None else {"min_bpm": min_bpm}),
    }

    def compute() -> Evaluated:
        activations = CorpusActivations(corpus, beat_set, inputs, layout)
        decoders = {"": DBNBeatDecoder(FPS)}
        if min_bpm is not None:
            decoders[f"{_FROM}{min_bpm:g} bpm)"] = DBNBeatDecoder(FPS, min_bpm=min_bpm)
        table, chance = _score(activations, corpus, decoders)
        tracks = [activations.tracks[place].track_id for place in activations.places]
        bootstrap = TrackBootstrap(tracks, resamples=resamples, seed=seed, highest=1.0)
        rows = [*_score_rows(corpus, table, chance, bootstrap)]

        def write_more(folder: Path) -> None:
            _write_tracks(activations, table, folder / TRACKS)
            plain = {name: table[name] for name in table if _FROM not in name}
            shown = [name for name in plain if name != ANNOTATION]
            write_examples(activations, _example_places(activations, plain), shown, folder)

        return Evaluated(
            scores=rows,
            summary={
                "tracks": len(activations.places),
                "unscorable_tracks": activations.unscorable,
                **{
                    f"{row['model']} {row['metric']}": row["value"]
                    for row in rows
                    if row["evaluation"] == EVALUATION and row["metric"] in SUMMARISED
                },
            },
            write_more=write_more,
        )

    return evaluate_once(layout, EVALUATION, corpus, identity, compute)


def _versions(source: BeatInput, corpus: str, layout: DataLayout) -> dict[str, str]:
    features = read_features_manifest(layout, source.model_id, corpus)
    probes = read_probe_manifest(layout, source.name)
    return {
        "model": source.name,
        "features": features["fingerprint"],
        "probes": probes["fingerprint"],
    }


def _score(
    activations: CorpusActivations, corpus: str, decoders: Mapping[str, DBNBeatDecoder]
) -> tuple[Table, dict[str, float]]:
    """Score all rows by each decoder, whose name is added to the model's, and chance."""
    rows: dict[str, list[dict[str, float]]] = {}
    chances = []
    places = progress(
        activations.places, total=len(activations.places), label=f"scoring beats of {corpus}"
    )
    for place in places:
        track = activations.tracks[place]
        for model, predicted in activations.predict(place).items():
            for name, decoder in decoders.items():
                scored = score_track(track, predicted, decoder)
                rows.setdefault(model + name, []).append(scored)
        chances.append(chance_scores(track))
    table = {
        model: {metric: np.array([row[metric] for row in scored]) for metric in BEATS}
        for model, scored in rows.items()
    }
    return table, {m: float(np.mean([row[m] for row in chances])) for m in BEATS}


def _score_rows(
    corpus: str, table: Table, chance: Mapping[str, float], bootstrap: TrackBootstrap
) -> Iterator[dict[str, Any]]:
    """Score each model, then each trained one minus each reference, of the same draws."""

    def row(name: str, model: str, metric: str, by: Interval, by_chance: float) -> dict[str, Any]:
        header = {"evaluation": name, "corpus": corpus, "model": model, "n_gallery": 0}
        header["conditioning"] = ALL_TRACKS
        percent = Interval(value=100 * by.value, low=100 * by.low, high=100 * by.high)
        n_tracks = len(table[ANNOTATION][metric])
        return score_row(header, metric, percent, n_queries=n_tracks, chance=100 * by_chance)

    for model, values in table.items():
        for metric in BEATS:
            interval = bootstrap.interval(values[metric])
            yield row(EVALUATION, model, metric, interval, chance[metric])
    pairs = [(m, r) for r in REFERENCES if r in table for m in table if m not in BARE]
    pairs = [(m, r) for m, r in pairs if _FROM not in m]
    for model, reference in pairs:
        for metric in BEATS:
            interval = bootstrap.difference(table[model][metric], table[reference][metric])
            yield row(PAIRED, f"{model} minus {reference}", metric, interval, 0.0)


def _example_places(activations: CorpusActivations, table: Table) -> list[int]:
    """Choose best, middle and worst track of the best trained encoder, else of the first row."""
    trained = [name for name in table if name not in BARE] or list(table)[:1]
    model = max(trained, key=lambda name: table[name]["f_measure"].mean())
    order = np.argsort(-table[model]["f_measure"], kind="stable")
    chosen = sorted({0, len(order) // 2, len(order) - 1})
    return [activations.places[order[place]] for place in chosen]


def _write_tracks(activations: CorpusActivations, table: Table, path: Path) -> None:
    import pyarrow as pa

    rows = []
    for model, values in table.items():
        for i, place in enumerate(activations.places):
            track = activations.tracks[place]
            figures = {metric: 100 * float(values[metric][i]) for metric in BEATS}
            tempo = {"tempo_bpm": tempo_bpm(track.beats), "beats": len(track.beats)}
            rows.append({"model": model, "track_id": track.track_id, **tempo, **figures})
    write_table(pa.Table.from_pylist(rows), path)


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
