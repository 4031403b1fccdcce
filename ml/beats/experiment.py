"""Table II: probes on frozen encoders beside what needs none, on every corpus with beats.

A track is scored by the probe that has not seen its fold or split; tracks of corpora that nothing
is trained on by the mean of all folds' probes, and by the one probe trained on all of them. The
first 5 s of a track do not count for beats (``ml.beats.scores``), but do for the average
precision of frames. Intervals come from resampling tracks, differences from the same draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import Artifact, DataLayout, write_aside
from ml.beats.activations import Listeners
from ml.beats.beat_sets import beats_version
from ml.beats.dbn import DBNBeatDecoder
from ml.beats.examples import write_examples
from ml.beats.feature_files import read_features_manifest
from ml.beats.features import LOG_MEL, UNTRAINED
from ml.beats.peaks import ONSETS
from ml.beats.probe import FPS
from ml.beats.probes import read_probe_manifest
from ml.beats.scores import ANNOTATION, TRACK_SCORES_METRICS, chance_values, score_track, tempo_bpm
from ml.corpora.readers.beats import BeatSet
from ml.progress import progress
from ml.scores.files import Evaluated, evaluate_once
from ml.scores.intervals import Interval, TrackBootstrap

if TYPE_CHECKING:
    from ml.beats.features import BeatInput

EVALUATION = "beats"
PAIRED = "beats-paired"
ALL_TRACKS = "all tracks"
"""The conditioning of the rows: beats have none."""
REFERENCES = (UNTRAINED, LOG_MEL)
"""What the others are compared with, track by track."""
BARE = (*REFERENCES, ONSETS, ANNOTATION)
"""Rows without a trained encoder."""
TRACKS = "tracks.parquet"
"""One row a track and model: annotated tempo and all figures in percent."""

Table = dict[str, dict[str, np.ndarray]]
"""Model → metric → (track,) 0…1."""


def build_beat_scores(
    corpus: str,
    found: BeatSet,
    inputs: Sequence[BeatInput],
    layout: DataLayout,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Artifact:
    """Score the probes of all inputs on a corpus.

    Args:
        corpus: its name; its features must have been made by all inputs.
        found: its beats.
        inputs: what to compare; their probes must have been trained.
        layout: where everything lies.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The scores of ``EVALUATION`` and ``PAIRED`` (``ml.scores.files``), with
        ``TRACKS`` and ``ml.beats.examples`` beside them.

    Raises:
        ArtifactError: features or probes are missing, or belong to another encoder.
        ValueError: no track is left to score.
    """
    identity = {
        "corpus": corpus,
        "beats": beats_version(found),
        "inputs": [_versions(source, corpus, layout) for source in inputs],
        "resamples": resamples,
        "seed": seed,
    }

    def compute() -> Evaluated:
        listeners = Listeners(corpus, found, inputs, layout)
        table, chance = _score(listeners, corpus)
        rows = [*_score_rows(corpus, listeners, table, chance, resamples, seed)]
        rows += _paired_rows(corpus, listeners, table, resamples, seed)

        def write_more(folder: Path) -> None:
            _write_tracks(listeners, table, folder / TRACKS)
            shown = [name for name in table if name != ANNOTATION]
            write_examples(listeners, _example_places(listeners, table), shown, folder)

        return Evaluated(
            scores=rows,
            summary={
                "tracks": len(listeners.places),
                "unscorable_tracks": listeners.unscorable,
                **{f"{r['model']} {r['metric']}": r["value"] for r in rows if _is_shown(r)},
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


def _score(listeners: Listeners, corpus: str) -> tuple[Table, dict[str, float]]:
    """Figures of all rows, and what chance gets."""
    decoder = DBNBeatDecoder(FPS)
    rows: dict[str, list[dict[str, float]]] = {}
    chances = []
    places = progress(
        listeners.places, total=len(listeners.places), label=f"scoring beats of {corpus}"
    )
    for place in places:
        track = listeners.tracks[place]
        for model, heard in listeners.hear(place).items():
            rows.setdefault(model, []).append(score_track(track, heard, decoder))
        chances.append(chance_values(track))
    table = {
        model: {metric: np.array([row[metric] for row in found]) for metric in TRACK_SCORES_METRICS}
        for model, found in rows.items()
    }
    return table, {m: float(np.mean([row[m] for row in chances])) for m in TRACK_SCORES_METRICS}


def _bootstrap(listeners: Listeners, resamples: int, seed: int) -> TrackBootstrap:
    tracks = [listeners.tracks[place].track_id for place in listeners.places]
    return TrackBootstrap(tracks, resamples=resamples, seed=seed)


def _score_rows(
    corpus: str,
    listeners: Listeners,
    table: Table,
    chance: Mapping[str, float],
    resamples: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    bootstrap = _bootstrap(listeners, resamples, seed)
    for model, values in table.items():
        for metric in TRACK_SCORES_METRICS:
            interval = bootstrap.interval(values[metric])
            row = _row(EVALUATION, corpus, model, metric, interval)
            yield {**row, "n_queries": len(listeners.places), "chance": 100 * chance[metric]}


def _paired_rows(
    corpus: str, listeners: Listeners, table: Table, resamples: int, seed: int
) -> Iterator[dict[str, Any]]:
    bootstrap = _bootstrap(listeners, resamples, seed)
    pairs = [(m, r) for r in REFERENCES if r in table for m in table if m not in BARE]
    for model, reference in pairs:
        for metric in TRACK_SCORES_METRICS:
            interval = bootstrap.difference(table[model][metric], table[reference][metric])
            row = _row(PAIRED, corpus, f"{model} minus {reference}", metric, interval)
            yield {**row, "n_queries": len(listeners.places), "chance": 0.0}


def _row(
    evaluation: str, corpus: str, model: str, metric: str, interval: Interval
) -> dict[str, Any]:
    return {
        "evaluation": evaluation,
        "corpus": corpus,
        "model": model,
        "conditioning": ALL_TRACKS,
        "n_gallery": 0,
        "metric": metric,
        "value": 100 * interval.value,
        "low": 100 * interval.low,
        "high": 100 * interval.high,
    }


def _is_shown(row: Mapping[str, Any]) -> bool:
    return row["evaluation"] == EVALUATION and row["metric"] in (
        "f_measure",
        "peak_f_measure",
        "average_precision",
    )


def _example_places(listeners: Listeners, table: Table) -> list[int]:
    """The best, the middle and the worst track of the best trained encoder, else of the first."""
    trained = [name for name in table if name not in BARE] or list(table)[:1]
    model = max(trained, key=lambda name: table[name]["f_measure"].mean())
    order = np.argsort(-table[model]["f_measure"], kind="stable")
    chosen = sorted({0, len(order) // 2, len(order) - 1})
    return [listeners.places[order[place]] for place in chosen]


def _write_tracks(listeners: Listeners, table: Table, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for model, values in table.items():
        for i, place in enumerate(listeners.places):
            track = listeners.tracks[place]
            figures = {metric: 100 * float(values[metric][i]) for metric in TRACK_SCORES_METRICS}
            tempo = {"tempo_bpm": tempo_bpm(track.beats), "beats": len(track.beats)}
            rows.append({"model": model, "track_id": track.track_id, **tempo, **figures})
    with write_aside(path) as aside:
        pq.write_table(pa.Table.from_pylist(rows), aside)
