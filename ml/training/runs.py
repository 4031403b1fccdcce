"""Training runs: one folder per identity, reused when finished, resumed when not.

``runs/<preset>-<size>-<fingerprint12>/`` holds ``run.json`` (identity, corpora, tracking tags),
``metrics.jsonl``, ``checkpoints/step-…`` while it trains, ``initial`` (phase 1: the untrained
model), ``best`` (of the best validation) and ``model`` (the result). Under ``torchrun`` every rank
trains and rank 0 writes.

[resume] ``stems train --resume RUN``: go on with a run by its folder, as it was begun.

The same options find the same run without this (``ml.training.runs``). By its folder a run is found
whatever the settings and the current phase-1 model are by now; options that would make it another
run are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ml.artifacts import MANIFEST_NAME, Artifact, ArtifactError, DataLayout
from ml.device import keep_freed_memory
from ml.locks import lock
from ml.plain import dataclass_from, jsonable
from ml.shards.folders import training_folder
from ml.shards.reader import ShardPairs
from ml.training.checkpoints import read_checkpoint_manifest
from ml.training.config import LoopConfig, Size, TrainingConfig, changed_config, training_config
from ml.training.distributed import from_rank_0, process_group, rank
from ml.training.execution import Run, execute_run, open_pairs, run_tags
from ml.training.mlflow_artifacts import describe_datasets
from ml.training.models import find_checkpoint, phase_1_model, point_models
from ml.training.run_folder import (
    RECORD_NAME,
    describe_run,
    differing_fields,
    read_record,
    read_run,
)
from ml.training.tracking import NoTracker, RunTracker


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
    with process_group(device or torch.device("cpu")) as device:
        config, pairs = open_training(
            preset,
            layout=layout,
            corpora=corpora,
            size=size,
            seed=seed,
            overrides=overrides,
            loop=loop or LoopConfig(),
        )
        run = Run(
            runs=layout.runs,
            config=config,
            shards=[training_folder(layout, name) for name in corpora],
            pairs=pairs,
            phase_1=phase_1_model(layout) if config.needs_phase_1 else None,
            loop=loop or LoopConfig(),
            device=device,
        )
        return train_run(run, layout=layout, corpora=corpora, tracker=tracker, tags=tags)


def train_run(
    run: Run,
    *,
    layout: DataLayout,
    corpora: Sequence[str],
    tracker: Callable[[Path, str], RunTracker],
    tags: Mapping[str, str] | None = None,
) -> Artifact:
    """Train a run to its end, or reuse its model; called by every rank, inside the process group.

    Args:
        run: what to train.
        layout: its ``models.json`` will name the model.
        corpora: names of what it is trained on, remembered beside it.
        tracker: makes a tracker from the run folder and the run's name.
        tags: what else the tracking run should carry.

    Raises:
        ArtifactError: the folder describes another run.
        LockedError: another process trains it.
    """
    # One process holds the lock for all ranks; the others wait for what it finds.
    with lock(run.folder / ".lock") if rank() == 0 else contextlib.nullcontext():
        is_reused = from_rank_0((run.folder / "model" / MANIFEST_NAME).is_file())
        if not is_reused:
            all_tags = run_tags(run) | dict(tags or {})
            if rank() == 0:
                datasets = describe_datasets(run.shards, run.pairs.fingerprints)
                describe_run(run.folder, run.identity, corpora, all_tags, datasets)
            execute_run(run, tracker(run.folder, run.folder.name), all_tags)
    if rank() == 0:
        point_models(layout, run.config.preset, run.folder)
    from_rank_0(None)  # the others wait until it has written the model
    return _trained(run.folder, is_reused=is_reused)


def open_training(
    preset: str,
    *,
    layout: DataLayout,
    corpora: Sequence[str],
    size: Size = "tiny",
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    loop: LoopConfig | None = None,
) -> tuple[TrainingConfig, ShardPairs]:
    """The configuration of a training and its data; arguments as for ``train_preset``.

    Raises:
        ArtifactError: shards are missing, or their conditions have another width than asked for.
        ValueError: a wrong preset, size or field.
    """
    config = training_config(preset, size=size, seed=seed, overrides=overrides)
    folders = [training_folder(layout, name) for name in corpora]
    pairs = open_pairs(folders, config, "train", loop)
    # Only the shards say how wide a condition is.
    predictor = config.model.predictor
    if predictor is not None:
        fitting = replace(predictor, condition_dim=pairs.condition_dim)
        config = replace(config, model=replace(config.model, predictor=fitting))
    return config, pairs


def _trained(run: Path, *, is_reused: bool) -> Artifact:
    last: dict[str, Any] = {}
    for line in read_record(run / RECORD_NAME):
        last |= line["metrics"] | {"step": line["step"]}
    model_id = read_checkpoint_manifest(run / "model")["model_id"]
    return Artifact(path=run / "model", fingerprint=model_id, reused=is_reused, summary=last)


def resume_run(
    name: str,
    *,
    layout: DataLayout,
    corpora: Sequence[str],
    options: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    loop: LoopConfig | None = None,
    device: torch.device | None = None,
    tracker: Callable[[Path, str], RunTracker] = lambda _folder, _name: NoTracker(),
    tags: Mapping[str, str] | None = None,
) -> Artifact:
    """Train a run from its last checkpoint to its end; a finished one is reused.

    Args:
        name: of its folder in ``layout.runs``.
        layout: where shards and runs lie.
        corpora: what it is trained on, should its folder not say (older ones do not).
        options: ``preset``, ``size``, ``seed`` or ``corpora`` that somebody expects it to have.
        overrides: likewise, by dotted field.
        loop: how often to log, validate and save.
        device: where to compute; default: the CPU.
        tracker: makes a tracker from the run folder and the run's name.
        tags: what else the tracking run should carry.

    Returns:
        The checkpoint folder; its summary holds the last metrics.

    Raises:
        ArtifactError: there is no such run, its shards or phase 1 are gone or have changed, or an
            option differs; names the fields.
        LockedError: another process trains it.
        ValueError: a wrong field.
    """
    keep_freed_memory()
    found = read_run(layout.runs / name)
    config = dataclass_from(TrainingConfig, found["identity"]["config"])
    corpora = found.get("corpora", corpora)
    begun = jsonable(config) | {"corpora": list(corpora)}
    _refuse(name, differing_fields(begun, begun | _wanted(config, options or {}, overrides or {})))
    folders = [training_folder(layout, corpus) for corpus in corpora]
    loop = loop or LoopConfig()
    with process_group(device or torch.device("cpu")) as device:
        run = Run(
            runs=layout.runs,
            config=config,
            shards=folders,
            pairs=open_pairs(folders, config, "train", loop),
            phase_1=_phase_1(layout, found["identity"]["phase_1"]),
            loop=loop,
            device=device,
        )
        _refuse(name, differing_fields(found["identity"], jsonable(run.identity)))
        return train_run(run, layout=layout, corpora=corpora, tracker=tracker, tags=tags)


def _wanted(
    config: TrainingConfig, options: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """What somebody expects a run with this configuration to be, as JSON."""
    of_config = {key: value for key, value in options.items() if key != "corpora"}
    wanted = jsonable(changed_config(replace(config, **of_config), overrides))
    return wanted | ({"corpora": list(options["corpora"])} if "corpora" in options else {})


def _refuse(name: str, fields: list[str]) -> None:
    if fields:
        raise ArtifactError(
            f"{name} was begun otherwise, and cannot go on with: {'; '.join(fields)}; leave these "
            "options out, or train another run without --resume"
        )


def _phase_1(layout: DataLayout, model_id: str | None) -> Path | None:
    """The checkpoint that a run started from, be it the current phase 1 or not."""
    if model_id is None:
        return None
    try:
        return find_checkpoint(layout, model_id)
    except ArtifactError:
        raise ArtifactError(
            f"the phase-1 model {model_id} that this run started from is not in {layout.runs}; "
            "bring it back, or train another run without --resume"
        ) from None
