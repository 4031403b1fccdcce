"""What was trained on what: facts about the current models, from their checkpoints and runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml import kinds
from ml.artifacts import (
    MANIFEST_NAME,
    ArtifactError,
    DataLayout,
    file_fingerprint,
    fingerprint,
    read_json,
    read_manifest,
)
from ml.figures import Curve
from ml.training.models import CONTRASTIVE, UNTRAINED, read_models
from ml.training.run_folder import RECORD_NAME, mlflow_page, read_record, record_curves


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """What a model has seen of a corpus."""

    corpus: str
    tracks: int
    hours: float | None
    """Length of the training segments in h; None when the shards have changed since."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model of ``runs/models.json``."""

    name: str
    model_id: str
    phase: str
    size: str
    seed: int
    steps: int
    """0 for the untrained one."""
    batch_size: int
    parameters: Mapping[str, int]
    """Number of weights of ``encoder`` and ``predictor``."""
    trained_on: Sequence[TrainedOn]
    training_labels: frozenset[str]
    label_encoder: str
    phase_1_model_id: str | None
    mlflow_run_id: str | None
    mlflow_page: str
    """Where below the address of MLflow's pages that run is shown; empty without one."""
    run: str
    training_s: float | None
    """Time spent in training steps; None when there is no record."""
    curves: Mapping[str, Sequence[Curve]]
    """Metric without ``valid_`` (``jepa/loss``) → its curves."""
    identity: Mapping[str, str | None]
    """Fingerprints of what this was read from."""


def trained_models(layout: DataLayout) -> list[TrainedModel]:
    """Describe the current models, phase 1 before phase 2; empty when there are none.

    Raises:
        ArtifactError: a checkpoint that ``models.json`` names is missing or damaged.
    """
    if not layout.models_index.is_file():
        return []
    models = [trained_model(layout, name, path) for name, path in read_models(layout).items()]
    return sorted(models, key=lambda m: (m.steps > 0, m.phase != CONTRASTIVE, m.name))


def trained_model(layout: DataLayout, name: str, path: Path) -> TrainedModel:
    """Describe one model.

    Args:
        layout: where its run's record lies.
        name: what to call it.
        path: its checkpoint folder.

    Raises:
        ArtifactError: the checkpoint is missing or damaged.
    """
    manifest = read_manifest(path, kinds.MODEL)
    config = read_json(path / "config.json")
    is_trained = name != UNTRAINED
    run = str(manifest.get("run", ""))
    record = layout.runs / run / RECORD_NAME
    lines = read_record(record) if run and is_trained else []
    return TrainedModel(
        name=name,
        model_id=manifest["model_id"],
        phase=manifest["phase"],
        size=config.get("size", "unknown"),
        seed=config.get("seed", 0),
        steps=config["steps"] if is_trained else 0,
        batch_size=config["batch_size"],
        parameters=_parameters(path / "model.safetensors"),
        trained_on=_trained_on(layout, manifest) if is_trained else (),
        training_labels=frozenset(manifest.get("training_labels", ())),
        label_encoder=(manifest.get("label_encoder") or {}).get("name", "none"),
        phase_1_model_id=manifest.get("phase_1_model_id"),
        mlflow_run_id=(run_id := manifest.get("mlflow_run_id") or None),
        mlflow_page=mlflow_page(path, run_id) if run_id else "",
        run=run,
        training_s=_training_s(lines),
        curves=record_curves(name, lines),
        identity={
            "manifest": file_fingerprint(path / MANIFEST_NAME),
            "record": file_fingerprint(record) if lines else None,
        },
    )


def _parameters(path: Path) -> dict[str, int]:
    from safetensors import SafetensorError, safe_open

    counts = Counter({"encoder": 0, "predictor": 0})
    try:
        with safe_open(path, framework="numpy") as weights:
            for key in weights.keys():  # noqa: SIM118 (not a mapping)
                counts[key.split(".")[0]] += math.prod(weights.get_slice(key).get_shape())
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{path} is missing or damaged ({error}); delete {path.parent.parent} and train again"
        ) from None
    return {part: counts[part] for part in ("encoder", "predictor") if counts[part]}


def _trained_on(layout: DataLayout, manifest: Mapping[str, Any]) -> tuple[TrainedOn, ...]:
    tracks = Counter(track["corpus"] for track in manifest.get("training_tracks", ()))
    shards = set(manifest.get("shards", ()))
    return tuple(
        TrainedOn(corpus=corpus, tracks=count, hours=_hours(layout.shards(corpus), shards))
        for corpus, count in sorted(tracks.items())
    )


def _hours(folder: Path, shards: set[str]) -> float | None:
    """Read the hours of the train split if its shards are still those that were trained on."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return None
    manifest = read_json(path)
    now = fingerprint([x for x in manifest.get("shards", ()) if x.get("split") == "train"])
    return manifest["summary"].get("train_hours") if now in shards else None


def _training_s(lines: Sequence[Mapping[str, Any]]) -> float | None:
    total, last_step = 0.0, 0
    for line in lines:
        speed = line["metrics"].get("speed/steps_per_s")
        if speed:
            total += (line["step"] - last_step) / speed
            last_step = line["step"]
    return total or None
