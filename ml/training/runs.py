"""Training runs: one folder per identity, reused when finished, resumed when not.

``runs/<preset>-<size>-<fingerprint12>/`` holds ``run.json`` (identity, corpora, tracking tags),
``metrics.jsonl``, ``checkpoints/step-…`` while it trains, ``initial`` (phase 1: the untrained
model), ``best`` (of the best validation) and ``model`` (the result). Under ``torchrun`` every rank
trains and rank 0 writes.

The same options find the same run. ``resume_run`` finds one by its folder, whatever the settings
and the current phase-1 model are by now; options that would make it another run are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch

from ml import kinds
from ml.artifacts import Artifact, ArtifactError, DataLayout, read_manifest
from ml.device import keep_freed_memory
from ml.locks import lock
from ml.plain import dataclass_from, jsonable
from ml.shards.folders import training_folder
from ml.shards.reader import ShardPairs
from ml.training.checkpoints import with_frontend
from ml.training.config import (
    NEEDS_PHASE_1,
    LoopConfig,
    Size,
    TrainingConfig,
    changed_config,
    training_config,
)
from ml.training.distributed import from_rank_0, process_group, rank
from ml.training.execution import Run, execute_run, open_pairs, run_tags
from ml.training.models import (
    CONTRASTIVE,
    find_checkpoint,
    keep_in_home,
    phase_1_model,
    point_models,
)
from ml.training.run_folder import (
    RECORD_NAME,
    describe_run,
    differing_fields,
    read_record,
    read_run,
)
from ml.training.tracking import NoTracker, RunTracker, describe_datasets

if TYPE_CHECKING:
    from ml.settings import TrainingSettings

_CPU = torch.device("cpu")


class ConfigOptions(TypedDict, total=False):
    """What, beside its preset, makes a configuration: see ``config.training_config``."""

    size: Size
    """``tiny`` (where left out), ``small`` or ``paper``."""
    seed: int
    """Of initialisation and data order; 0 where left out."""
    overrides: Mapping[str, Any] | None
    """Configuration by dotted field."""


class RunOptions(ConfigOptions):
    """What, beside its preset, makes a run the one it is."""

    corpora: Sequence[str]
    """Names of the corpora whose shards are trained on."""


def run_options(training: TrainingSettings) -> RunOptions:
    """Take the options from the section ``training`` of the settings."""
    return {
        "corpora": training.corpora,
        "size": training.size,
        "seed": training.seed,
        "overrides": training.overrides,
    }


def settings_start(training: TrainingSettings, preset: str) -> str | None:
    """Take the model that a preset starts from by the section ``training`` of the settings."""
    return training.start if preset == CONTRASTIVE else None


def train_preset(
    preset: str,
    *,
    layout: DataLayout,
    loop: LoopConfig | None = None,
    device: torch.device = _CPU,
    tracker: Callable[[Path, str], RunTracker] | None = None,
    tags: Mapping[str, str] | None = None,
    start: str | None = None,
    **options: Unpack[RunOptions],
) -> Artifact:
    """Train one row of Table I, or reuse or resume it.

    Args:
        preset: one of ``config.PRESETS``. Those that need phase 1 start from the current
            ``contrastive`` model of ``runs/models.json``.
        layout: where shards and runs lie.
        loop: how often to log, validate and save.
        device: where to compute.
        tracker: makes a tracker from the run folder and the run's name; default: none.
        tags: what else the tracking run should carry.
        start: a model, as ``find_model`` takes it, whose encoder and log-mel phase 1 starts from.
        options: see ``RunOptions``.

    Returns:
        The checkpoint folder; its summary holds the last metrics.

    Raises:
        ArtifactError: shards or the phase-1 model are missing, or what it starts from is of another
            size.
        LockedError: another process trains this identity.
        ValueError: a wrong preset, size or field.
    """
    keep_freed_memory()
    with process_group(device) as device:
        run = _open_run(
            preset,
            layout=layout,
            loop=loop or LoopConfig(),
            device=device,
            start=start,
            **options,
        )
        return _train_run(run, tracker=tracker, tags=tags)


def trained_model(
    preset: str, *, layout: DataLayout, start: str | None = None, **options: Unpack[RunOptions]
) -> Artifact | None:
    """Find the model that ``train_preset`` would reuse; train nothing.

    Its preset's name stands for it again, as after training.

    Args:
        preset: as for ``train_preset``; likewise what follows.
        layout: where shards and runs lie.
        start: see there.
        options: see ``RunOptions``.

    Returns:
        The checkpoint folder; None: nothing like it was trained to its end.

    Raises:
        ArtifactError: shards or the phase-1 model are missing.
        ValueError: a wrong preset, size or field.
    """
    loop = LoopConfig()
    run = _open_run(preset, layout=layout, loop=loop, device=_CPU, start=start, **options)
    if not run.is_finished:
        return None
    point_models(layout, preset, run.folder)
    return _artifact(run, is_reused=True)


def resume_run(
    name: str,
    *,
    layout: DataLayout,
    corpora: Sequence[str],
    options: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    loop: LoopConfig | None = None,
    device: torch.device = _CPU,
    tracker: Callable[[Path, str], RunTracker] | None = None,
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
        device: where to compute.
        tracker: makes a tracker from the run folder and the run's name; default: none.
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
    described = read_run(layout.runs / name)
    config = dataclass_from(TrainingConfig, described["identity"]["config"])
    corpora = described.get("corpora", corpora)
    begun = jsonable(config) | {"corpora": list(corpora)}
    _refuse(name, begun, begun | _wanted(config, options or {}, overrides or {}))
    folders = [training_folder(layout, corpus) for corpus in corpora]
    loop = loop or LoopConfig()
    with process_group(device) as device:
        run = Run(
            layout=layout,
            config=config,
            shards=folders,
            pairs=open_pairs(folders, config, "train", loop, device=device),
            phase_1=_find_phase_1(layout, described["identity"]["phase_1"]),
            loop=loop,
            device=device,
        )
        _refuse(name, described["identity"], jsonable(run.identity))
        return _train_run(run, tracker=tracker, tags=tags)


def open_training(
    preset: str,
    *,
    layout: DataLayout,
    corpora: Sequence[str],
    loop: LoopConfig | None = None,
    device: torch.device = _CPU,
    start: Path | None = None,
    **options: Unpack[ConfigOptions],
) -> tuple[TrainingConfig, ShardPairs]:
    """Make the configuration of a training and open its data; arguments as for ``train_preset``.

    ``start`` is the checkpoint that it starts from (``start_of``).

    Raises:
        ArtifactError: shards are missing, or their conditions have another width than asked for.
        ValueError: a wrong preset, size or field.
    """
    config = training_config(preset, **options)
    if start is not None:
        config = with_frontend(config, start, options.get("overrides") or {})
    folders = [training_folder(layout, name) for name in corpora]
    pairs = open_pairs(folders, config, "train", loop, device=device)
    # Only the shards say how wide a condition is.
    predictor = config.model.predictor
    if predictor is not None:
        fitting = replace(predictor, condition_dim=pairs.condition_dim)
        config = replace(config, model=replace(config.model, predictor=fitting))
    return config, pairs


def start_of(layout: DataLayout, preset: str, text: str | None = None) -> Path | None:
    """Find the checkpoint that a preset starts from; None: it starts from random weights.

    Args:
        layout: where models lie.
        preset: one of ``config.PRESETS``. Those that need phase 1 start from the current
            ``contrastive`` model.
        text: the model that phase 1 starts from, as ``find_model`` takes it.

    Raises:
        ArtifactError: there is no such model.
        ValueError: the preset is not phase 1.
    """
    if text is None:
        return phase_1_model(layout) if preset in NEEDS_PHASE_1 else None
    if preset != CONTRASTIVE:
        raise ValueError(
            f"preset {preset} with a start ({text}): expected {CONTRASTIVE}, as phase 1 is what "
            f"starts from a model; train that first: stems train --preset {CONTRASTIVE} --from "
            f"{text}, then stems train --preset {preset}"
        )
    return keep_in_home(layout, find_checkpoint(layout, text))


def _open_run(
    preset: str,
    *,
    layout: DataLayout,
    corpora: Sequence[str],
    loop: LoopConfig,
    device: torch.device,
    start: str | None = None,
    **options: Unpack[ConfigOptions],
) -> Run:
    training_config(preset, **options)  # wrong words are named before a model is looked for
    phase_1 = start_of(layout, preset, start)
    config, pairs = open_training(
        preset,
        layout=layout,
        corpora=corpora,
        loop=loop,
        device=device,
        start=phase_1,
        **options,
    )
    return Run(
        layout=layout,
        config=config,
        shards=[training_folder(layout, name) for name in corpora],
        pairs=pairs,
        phase_1=phase_1,
        loop=loop,
        device=device,
    )


def _train_run(
    run: Run,
    *,
    tracker: Callable[[Path, str], RunTracker] | None,
    tags: Mapping[str, str] | None,
) -> Artifact:
    """Train a run to its end, or reuse its model; called by every rank, inside the process group.

    Raises:
        ArtifactError: the folder describes another run.
        LockedError: another process trains it.
    """
    # One process holds the lock for all ranks; the others wait for what it finds.
    with lock(run.folder / ".lock") if rank() == 0 else contextlib.nullcontext():
        is_reused = from_rank_0(run.is_finished)
        if not is_reused:
            all_tags = run_tags(run) | dict(tags or {})
            if rank() == 0:
                datasets = describe_datasets(run.shards, run.pairs.fingerprints)
                corpora = [folder.name for folder in run.shards]
                describe_run(run.folder, run.identity, corpora, all_tags, datasets)
            made = tracker(run.folder, run.folder.name) if tracker else NoTracker()
            execute_run(run, made, all_tags)
    if rank() == 0:
        point_models(run.layout, run.config.preset, run.folder)
    from_rank_0(None)  # the others wait until it has written the model
    return _artifact(run, is_reused=is_reused)


def _artifact(run: Run, *, is_reused: bool) -> Artifact:
    last: dict[str, Any] = {}
    for line in read_record(run.folder / RECORD_NAME):
        last |= line["metrics"] | {"step": line["step"]}
    model = run.folder / "model"
    model_id = read_manifest(model, kinds.MODEL)["model_id"]
    return Artifact(path=model, fingerprint=model_id, reused=is_reused, summary=last)


def _wanted(
    config: TrainingConfig, options: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Say as JSON what somebody expects a run with this configuration to be."""
    of_config = {key: value for key, value in options.items() if key != "corpora"}
    wanted = jsonable(changed_config(replace(config, **of_config), overrides))
    return wanted | ({"corpora": list(options["corpora"])} if "corpora" in options else {})


def _refuse(name: str, begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if fields := differing_fields(begun, wanted):
        raise ArtifactError(
            f"{name} was begun otherwise, and cannot go on with: {'; '.join(fields)}; leave these "
            "options out, or train another run without --resume"
        )


def _find_phase_1(layout: DataLayout, model_id: str | None) -> Path | None:
    """Find the checkpoint that a run started from, be it the current phase 1 or not."""
    if model_id is None:
        return None
    try:
        return find_checkpoint(layout, model_id)
    except ArtifactError:
        raise ArtifactError(
            f"the phase-1 model {model_id} that this run started from is not in {layout.runs}; "
            "bring it back, or train another run without --resume"
        ) from None
