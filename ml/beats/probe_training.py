"""Probes of every input: one a fold, of the layer that its validation tracks prefer."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import Artifact, DataLayout, find_current, finish
from ml.beats.annotations import BeatSet
from ml.beats.beat_sets import beats_version, probe_tracks
from ml.beats.evaluate import beat_scores
from ml.beats.feature_files import read_features_manifest
from ml.beats.folds import Fold, plan_folds
from ml.beats.peaks import pick_peaks
from ml.beats.probe import FPS, ProbeConfig, TrainedProbe, train_probe
from ml.beats.probe_files import ALL, FORMAT_VERSION, write_probe
from ml.beats.probe_tracks import ProbeTrack
from ml.device import one_thread
from ml.locks import lock

if TYPE_CHECKING:
    from ml.beats.inputs import BeatInput

THRESHOLDS = tuple(step / 20 for step in range(1, 19))
"""Heights of peaks that are tried on the validation tracks."""
_log = logging.getLogger(__name__)


def build_beat_probes(
    source: BeatInput,
    sets: Mapping[str, BeatSet],
    layout: DataLayout,
    config: ProbeConfig | None = None,
) -> Artifact:
    """Train the probes of an input, or find them.

    Args:
        source: whose features were made for all corpora of ``sets``.
        sets: by corpus: the beats of what is trained on.
        layout: where everything lies.
        config: how to train.

    Returns:
        The artifact: ``ml.beats.probe_files`` reads it.

    Raises:
        ArtifactError: features are missing.
        ValueError: the tracks have no folds or splits to train by.
    """
    config = config or ProbeConfig()
    manifests = {name: read_features_manifest(layout, source.model_id, name) for name in sets}
    identity = {
        "model_id": source.model_id,
        "features": {name: manifest["fingerprint"] for name, manifest in manifests.items()},
        "beats": {name: beats_version(found) for name, found in sets.items()},
        "config": config,
    }
    folder = layout.beat_probes(source.name)
    found = find_current(folder, identity, format_version=FORMAT_VERSION)
    if found is not None:
        return found
    tracks = [
        track
        for name, found_set in sets.items()
        for track in probe_tracks(name, found_set, layout, source.model_id)
    ]
    layers = next(iter(manifests.values()))["layers"]
    with lock(folder / ".lock"), one_thread():
        entries = _train_all(source, tracks, layers, layout, config)
        last = next(entry for entry in entries if entry["name"] == ALL)
        return finish(
            folder,
            identity,
            format_version=FORMAT_VERSION,
            summary={
                "model": source.name,
                "layer": last["layer"],
                "peak_threshold": last["peak_threshold"],
                "valid_loss": last["valid_loss"],
                "folds": len(entries) - 1,
                "tracks": len(tracks),
            },
            model_id=source.model_id,
            feature_dim=source.feature_dim,
            probes=entries,
        )


def _train_all(
    source: BeatInput,
    tracks: Sequence[ProbeTrack],
    layers: Sequence[int],
    layout: DataLayout,
    config: ProbeConfig,
) -> list[dict[str, Any]]:
    folder = layout.beat_probes(source.name)
    folds = plan_folds(tracks)
    entries, made = [], []
    for fold in folds:
        trained = _best_layer(source.name, fold, layers, config)
        threshold = choose_threshold(trained, fold.valid)
        write_probe(folder, fold.name, trained.probe)
        entries.append(_entry(fold.name, trained, layers, threshold))
        made.append(trained)
    whole = made[0]
    if len(folds) > 1:
        # Nothing is left to stop by: the layer and the epochs are those of the folds.
        row = statistics.mode(trained.row for trained in made)
        epochs = round(statistics.median(trained.epochs for trained in made))
        used = [track for track in tracks if track.group is not None]
        whole = train_probe(used, (), row, config, epochs=epochs)
    threshold = statistics.median(entry["peak_threshold"] for entry in entries)
    write_probe(folder, ALL, whole.probe)
    return [*entries, _entry(ALL, whole, layers, threshold)]


def _best_layer(name: str, fold: Fold, layers: Sequence[int], config: ProbeConfig) -> TrainedProbe:
    """The probe of the layer with the smallest validation loss; the test tracks are not read."""
    made = [train_probe(fold.train, fold.valid, row, config) for row in range(len(layers))]
    best = min(made, key=lambda trained: trained.valid_loss)
    losses = ", ".join(
        f"layer {layer} {t.valid_loss:.4f}" for layer, t in zip(layers, made, strict=True)
    )
    _log.info(
        "beat probe on %s (%s): validation loss %s; layer %d is taken after %d epochs",
        *(name, fold.name, losses, layers[best.row], best.epochs),
    )
    return best


def choose_threshold(trained: TrainedProbe, valid: Sequence[ProbeTrack]) -> float:
    """The height of peaks with the best mean F-measure on tracks that stopped the training."""
    activations = [trained.probe.activation(t.read(trained.row), t.frames) for t in valid]

    def f_measure(threshold: float) -> float:
        found = (pick_peaks(values, FPS, threshold=threshold) for values in activations)
        scores = (beat_scores(t.beats, b) for t, b in zip(valid, found, strict=True))
        return float(np.mean([score["f_measure"] for score in scores]))

    return max(THRESHOLDS, key=f_measure)


def _entry(
    name: str, trained: TrainedProbe, layers: Sequence[int], threshold: float
) -> dict[str, Any]:
    loss = trained.valid_loss
    return {
        "name": name,
        "layer": layers[trained.row],
        "row": trained.row,
        "peak_threshold": threshold,
        "valid_loss": None if np.isnan(loss) else loss,
        "epochs": trained.epochs,
    }
