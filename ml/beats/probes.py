"""Probes of every input as files: one a fold, of the layer that its validation tracks prefer.

``beats/probes/<model>/`` holds ``<fold>.safetensors`` for each training, and ``all.safetensors``,
which is what beats of other recordings are found with: of corpora with splits their one probe, of
sets with folds one that was trained on all of them. The manifest names the encoder that they
belong to.

Sets with published *folds* are cross-validated together: of each fold's seven training folds the
next one says when to stop, and the test fold is looked at once. Corpora with *splits* (the demo
songs) are not cross-validated: ``train`` trains, ``valid`` stops, ``test`` is scored. Tracks with
neither (GTZAN) are never trained on.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml import kinds
from ml.artifacts import (
    Artifact,
    ArtifactError,
    DataLayout,
    find_current,
    finish,
    read_manifest,
    write_aside,
)
from ml.beats.beat_sets import beats_version, probe_tracks
from ml.beats.evaluate import beat_scores
from ml.beats.feature_files import read_features_manifest
from ml.beats.features import BeatInput
from ml.beats.peaks import pick_peaks
from ml.beats.probe import FPS, BeatProbe, ProbeConfig, ProbeTrack, TrainedProbe, train_probe
from ml.corpora.readers.beats import BeatSet
from ml.device import one_thread
from ml.locks import lock

ALL = "all"
"""Name of the probe for other recordings."""
SPLIT = "split"
"""Name of the only fold of corpora with splits."""
THRESHOLDS = tuple(step / 20 for step in range(1, 19))
"""Heights of peaks that are tried on the validation tracks."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StoredProbe:
    """A probe and what it needs to be used."""

    name: str
    """Its fold, or ``ALL``."""
    probe: BeatProbe
    layer: int
    """Of the encoder, as ``ViTEncoder.layer_patches`` counts."""
    row: int
    """Place of that layer in the features it was trained on."""
    peak_threshold: float
    """Lowest height of a peak, chosen on the validation tracks."""
    valid_loss: float | None
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One training: no track is in two of its parts."""

    name: str
    """``fold-0`` … ``fold-7``, or ``SPLIT``."""
    train: tuple[ProbeTrack, ...]
    valid: tuple[ProbeTrack, ...]
    test: tuple[ProbeTrack, ...]


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
        The artifact, for ``read_probes``.

    Raises:
        ArtifactError: features are missing.
        ValueError: the tracks have no folds or splits to train by.
    """
    config = config or ProbeConfig()
    manifests = {name: read_features_manifest(layout, source.model_id, name) for name in sets}
    identity = {
        "model_id": source.model_id,
        "features": {name: manifest["fingerprint"] for name, manifest in manifests.items()},
        "beats": {name: beats_version(beat_set) for name, beat_set in sets.items()},
        "config": config,
    }
    folder = layout.beat_probes(source.name)
    current = find_current(folder, identity, kinds.BEAT_PROBES)
    if current is not None:
        return current
    tracks = [
        track
        for name, beat_set in sets.items()
        for track in probe_tracks(name, beat_set, layout, source.model_id)
    ]
    layers = next(iter(manifests.values()))["layers"]
    with lock(folder / ".lock"), one_thread():
        entries = _train_all(source, tracks, layers, layout, config)
        last = next(entry for entry in entries if entry["name"] == ALL)
        return finish(
            folder,
            identity,
            kinds.BEAT_PROBES,
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


def read_probe_manifest(layout: DataLayout, name: str) -> dict[str, Any]:
    """Read the manifest of a model's probes.

    Raises:
        ArtifactError: there are none, or they have a newer format.
    """
    return read_manifest(layout.beat_probes(name), kinds.BEAT_PROBES)


def read_probes(layout: DataLayout, name: str, model_id: str) -> dict[str, StoredProbe]:
    """Read the probes of a model by fold, ``ALL`` among them.

    Args:
        layout: where probes lie.
        name: of the model.
        model_id: of the encoder that they will be used with.

    Raises:
        ArtifactError: there are none, they belong to another encoder, or are damaged.
    """
    manifest = read_probe_manifest(layout, name)
    folder = layout.beat_probes(name)
    if manifest["model_id"] != model_id:
        raise ArtifactError(
            f"the probes in {folder} belong to encoder {manifest['model_id']}, this is "
            f"{model_id}; train probes on it with: {kinds.BEAT_PROBES.remedy(folder)}"
        )
    return {
        entry["name"]: StoredProbe(
            probe=_read(folder / f"{entry['name']}.safetensors", manifest["feature_dim"]),
            **entry,
        )
        for entry in manifest["probes"]
    }


def plan_folds(tracks: Sequence[ProbeTrack]) -> list[Fold]:
    """Plan the trainings that score each track of the trained-on corpora once at most.

    Args:
        tracks: of all corpora that are trained on; ``group`` is a fold or a split.

    Raises:
        ValueError: folds and splits at once, fewer than three folds, or a split without tracks.
    """
    groups = {track.group for track in tracks}
    folds = sorted(group for group in groups if isinstance(group, int))
    splits = {group for group in groups if isinstance(group, str)}
    if folds and splits:
        raise ValueError(
            f"some tracks have folds ({len(folds)}), others splits ({', '.join(sorted(splits))}); "
            "beats.corpora must be sets with published folds or demo corpora, not both"
        )
    if not folds:
        return [_split_fold(tracks, splits)]
    if len(folds) < 3:
        raise ValueError(
            f"the tracks have {len(folds)} folds; expected at least 3: to train, stop and test"
        )
    after = dict(zip(folds, [*folds[1:], folds[0]], strict=True))
    return [
        Fold(
            name=f"fold-{fold}",
            train=tuple(t for t in tracks if t.group not in (None, fold, after[fold])),
            valid=tuple(t for t in tracks if t.group == after[fold]),
            test=tuple(t for t in tracks if t.group == fold),
        )
        for fold in folds
    ]


def _split_fold(tracks: Sequence[ProbeTrack], splits: set[str]) -> Fold:
    wanted = ("train", "valid", "test")
    if lacking := [split for split in wanted if split not in splits]:
        raise ValueError(
            f"no track with beats and features is in split {lacking[0]}; expected tracks in "
            f"{', '.join(wanted)}: name a corpus that has them under beats.corpora"
        )
    train, valid, test = (tuple(t for t in tracks if t.group == split) for split in wanted)
    return Fold(name=SPLIT, train=train, valid=valid, test=test)


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
        _write(folder, fold.name, trained.probe)
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
    _write(folder, ALL, whole.probe)
    return [*entries, _entry(ALL, whole, layers, threshold)]


def _best_layer(name: str, fold: Fold, layers: Sequence[int], config: ProbeConfig) -> TrainedProbe:
    """Train a probe a layer, keep that of the smallest validation loss; read no test track."""
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
    """Choose the height of peaks with the best mean F-measure on the validation tracks."""
    activations = [trained.probe.activation(t.read(trained.row), t.frames) for t in valid]

    def f_measure(threshold: float) -> float:
        picked = (pick_peaks(values, FPS, threshold=threshold) for values in activations)
        scores = (beat_scores(t.beats, beats) for t, beats in zip(valid, picked, strict=True))
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


def _write(folder: Path, name: str, probe: BeatProbe) -> None:
    """Write the weights of a probe."""
    from safetensors.torch import save_file

    with write_aside(folder / f"{name}.safetensors") as aside:
        save_file({key: value.contiguous() for key, value in probe.state_dict().items()}, aside)


def _read(path: Path, feature_dim: int) -> BeatProbe:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
        probe = BeatProbe(feature_dim, len(weights["linear.bias"]))
        probe.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise ArtifactError(
            f"{path} is missing or damaged ({error}); delete {path.parent} and train again with: "
            f"{kinds.BEAT_PROBES.remedy(path.parent)}"
        ) from None
    return probe.eval().requires_grad_(False)
