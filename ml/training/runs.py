"""Training runs: one folder per identity, reused when finished, resumed when not.

``runs/<preset>-<size>-<fingerprint12>/`` holds ``run.json`` (identity and status),
``metrics.jsonl``, ``checkpoints/step-…`` while it trains, ``initial`` (phase 1: the untrained
model) and ``model`` (the result). ``runs/models.json`` says which folder each model name stands
for now.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ml.artifacts import (
    MANIFEST_NAME,
    Artifact,
    ArtifactError,
    DataLayout,
    fingerprint,
    lock,
    read_json,
    read_manifest,
    write_json,
)
from ml.device import keep_freed_memory
from ml.models.stem_jepa import FORMAT_VERSION, StemJepa
from ml.plain import jsonable
from ml.progress import ProgressBar
from ml.shards.pairs import PairBatch
from ml.shards.reader import EmptySplitError, ShardPairs
from ml.training.checkpoints import load_training_state, save_checkpoint, start_from_phase_1
from ml.training.config import PRESETS, LoopConfig, Size, TrainingConfig, training_config
from ml.training.loop import TrainState, build_state, train
from ml.training.statistics import BATCHES, measure_statistics
from ml.training.tracking import (
    RECORD_NAME,
    MetricsRecord,
    NoTracker,
    RunTracker,
    flat,
    read_record,
)

_log = logging.getLogger(__name__)
ALGORITHM_VERSION = 1
"""Part of a run's identity; raised when the same configuration gives other weights."""
UNTRAINED = "untrained"
CONTRASTIVE = "contrastive"


def train_preset(
    preset: str,
    *,
    layout: DataLayout,
    corpora: Sequence[str],
    size: Size = "tiny",
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    loop: LoopConfig | None = None,
    device: torch.device | None = None,
    tracker: Callable[[Path, str], RunTracker] = lambda _folder, _name: NoTracker(),
    tags: Mapping[str, str] | None = None,
) -> Artifact:
    """Train one row of Table I, or reuse or resume it.

    Args:
        preset: one of ``config.PRESETS``. Those that need phase 1 start from the current
            ``contrastive`` model of ``runs/models.json``.
        layout: where shards and runs lie.
        corpora: names of the corpora whose shards are trained on.
        size: ``tiny``, ``small`` or ``paper``.
        seed: of initialisation and data order.
        overrides: configuration by dotted field.
        loop: how often to log, validate and save.
        device: where to compute; default: the CPU.
        tracker: makes a tracker from the run folder and the run's name.
        tags: what else the tracking run should carry.

    Returns:
        The checkpoint folder; its summary holds the last metrics.

    Raises:
        ArtifactError: shards or the phase-1 model are missing.
        LockedError: another process trains this identity.
        ValueError: a wrong preset, size or field.
    """
    keep_freed_memory()
    loop = loop or LoopConfig()
    folders = [layout.shards(name) for name in corpora]
    probe = training_config(preset, size=size, seed=seed, overrides=overrides)
    pairs = _open_pairs(folders, probe, "train", loop)
    config = training_config(
        preset, size=size, seed=seed, overrides=overrides, condition_dim=pairs.condition_dim
    )
    phase_1 = _phase_1(layout) if config.needs_phase_1 else None
    identity = {
        "algorithm": ALGORITHM_VERSION,
        "config": config,
        "shards": pairs.fingerprints,
        "phase_1": None if phase_1 is None else _manifest(phase_1)["model_id"],
    }
    folder = layout.runs / f"{preset}-{size}-{fingerprint(identity)[:12]}"
    with lock(folder / ".lock"):
        is_reused = (folder / "model" / MANIFEST_NAME).is_file()
        if not is_reused:
            _check_resumable(folder, identity)
            run = _Run(
                folder=folder,
                config=config,
                shards=folders,
                pairs=pairs,
                phase_1=phase_1,
                loop=loop,
                device=device or torch.device("cpu"),
            )
            _train(run, tracker(folder, folder.name), dict(tags or {}))
    _point_models(layout, preset, folder)
    return _trained(folder, is_reused=is_reused)


def read_models(layout: DataLayout) -> dict[str, Path]:
    """Model name → its checkpoint folder now: ``untrained``, then in the order of ``PRESETS``.

    Raises:
        ArtifactError: nothing has been trained yet.
    """
    if not layout.models_index.is_file():
        raise ArtifactError(f"{layout.models_index} does not exist; train first: stems train")
    index = read_json(layout.models_index)
    return {name: layout.home / index[name] for name in (UNTRAINED, *PRESETS) if name in index}


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What one run is made of."""

    folder: Path
    config: TrainingConfig
    shards: list[Path]
    pairs: ShardPairs
    phase_1: Path | None
    loop: LoopConfig
    device: torch.device


def _train(run: _Run, tracker: RunTracker, tags: dict[str, str]) -> None:
    state = _initial_state(run)
    origin = _origin(run)
    if run.phase_1 is None and not (run.folder / "initial" / MANIFEST_NAME).is_file():
        untrained = origin | {"name": UNTRAINED}
        save_checkpoint(run.folder / "initial", state.model, run.config, origin=untrained)
    if (latest := _latest_checkpoint(run.folder)) is not None:
        state.load_state_dict(load_training_state(latest))
        _log.info("%s: resumed at step %d", run.folder.name, state.step)
    record = MetricsRecord(run.folder, from_step=state.step)
    tags = {"phase": state.model.phase, "training_id": run.folder.name, **tags}
    if run.phase_1 is not None:
        tags["phase1_run_id"] = _manifest(run.phase_1).get("mlflow_run_id") or ""
    tracker.start(flat(jsonable(run.config)), tags)
    try:
        _train_with_progress(run, state, origin, tracker, record)
    except BaseException as error:
        # Also for Ctrl-C: a tracker left running would send again what a resumed run sends.
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    origin["mlflow_run_id"] = tracker.finish()
    save_checkpoint(run.folder / "model", state.model, run.config, origin=origin)
    shutil.rmtree(run.folder / "checkpoints")


def _train_with_progress(
    run: _Run,
    state: TrainState,
    origin: dict[str, Any],
    tracker: RunTracker,
    record: MetricsRecord,
) -> None:
    label = f"training {run.folder.name}"
    with ProgressBar(total=run.config.steps, done=state.step, label=label) as bar:

        def log(step: int, metrics: dict[str, float]) -> None:
            record.append(step, metrics)
            tracker.ship()
            bar.update_to(step, metrics)

        train(
            state,
            run.pairs.batches(start=state.step),
            loop=run.loop,
            device=run.device,
            log=log,
            valid=_valid_batches(run),
            save=lambda s: _save(run, s, origin),
        )


def _initial_state(run: _Run) -> TrainState:
    torch.manual_seed(run.config.seed)
    model = StemJepa(run.config.model).to(run.device)
    if run.phase_1 is None:
        measure_statistics(model, itertools.islice(run.pairs.batches(), BATCHES))
    else:
        start_from_phase_1(model, run.phase_1)
    return build_state(run.config, model)


def _origin(run: _Run) -> dict[str, Any]:
    pairs = run.pairs
    earlier = {} if run.phase_1 is None else _manifest(run.phase_1)
    tracks = {(t["corpus"], t["track_id"]): t for t in earlier.get("training_tracks", [])}
    tracks |= {(t["corpus"], t["track_id"]): t for t in pairs.training_tracks}
    labels = set(earlier.get("training_labels", [])) | set(pairs.training_labels)
    return {
        "name": run.config.preset,
        "size": run.config.size,
        "seed": run.config.seed,
        "label_encoder": pairs.label_encoder,
        "training_tracks": [tracks[key] for key in sorted(tracks)],
        "training_labels": sorted(labels),
        "phase_1_model_id": earlier.get("model_id"),
        "run": run.folder.name,
        "shards": pairs.fingerprints,
    }


def _save(run: _Run, state: TrainState, origin: dict[str, Any]) -> None:
    folder = run.folder / "checkpoints"
    path = folder / f"step-{state.step:07d}"
    save_checkpoint(path, state.model, state.config, origin=origin, state=state.state_dict())
    for old in sorted(folder.glob("step-*"))[: -run.loop.keep_last]:
        shutil.rmtree(old)


def _latest_checkpoint(run: Path) -> Path | None:
    found = sorted((run / "checkpoints").glob("step-*/" + MANIFEST_NAME))
    return found[-1].parent if found else None


def _trained(run: Path, *, is_reused: bool) -> Artifact:
    last: dict[str, Any] = {}
    for line in read_record(run / RECORD_NAME):
        last |= line["metrics"] | {"step": line["step"]}
    model_id = _manifest(run / "model")["model_id"]
    return Artifact(path=run / "model", fingerprint=model_id, reused=is_reused, summary=last)


def _check_resumable(run: Path, identity: dict[str, Any]) -> None:
    path = run / "run.json"
    if not path.is_file():
        write_json(path, {"identity": identity})
    elif (found := read_json(path)["identity"]) != jsonable(identity):
        raise ArtifactError(f"{path} describes another run ({found}); remove the folder")


def _point_models(layout: DataLayout, preset: str, run: Path) -> None:
    index = read_json(layout.models_index) if layout.models_index.is_file() else {}
    index[preset] = (run / "model").relative_to(layout.home).as_posix()
    if preset == CONTRASTIVE:
        index[UNTRAINED] = (run / "initial").relative_to(layout.home).as_posix()
    write_json(layout.models_index, index)


def _phase_1(layout: DataLayout) -> Path:
    models = read_models(layout) if layout.models_index.is_file() else {}
    if CONTRASTIVE not in models:
        raise ArtifactError(
            f"{layout.models_index} names no contrastive model to start phase 2 from; train it "
            "first: stems train --preset contrastive"
        )
    return models[CONTRASTIVE]


def _manifest(checkpoint: Path) -> dict[str, Any]:
    return read_manifest(checkpoint, format_version=FORMAT_VERSION, made_by="stems train")


def _open_pairs(
    folders: list[Path], config: TrainingConfig, split: str, loop: LoopConfig
) -> ShardPairs:
    return ShardPairs(
        folders,
        split=split,
        config=config.pairs,
        batch_size=config.batch_size,
        seed=config.seed,
        workers=loop.workers if split == "train" else 0,
    )


def _valid_batches(run: _Run) -> list[PairBatch]:
    """The same few batches of the valid split at each validation; none where it is empty."""
    try:
        pairs = _open_pairs(run.shards, run.config, "valid", run.loop)
    except EmptySplitError as error:
        _log.info("no validation: %s", error)
        return []
    return list(itertools.islice(pairs.batches(), run.loop.valid_batches))
