"""Training runs: one folder per identity, reused when finished, resumed when not.

``runs/<preset>-<size>-<fingerprint12>/`` holds ``run.json`` (identity, corpora, tracking tags),
``metrics.jsonl``, ``checkpoints/step-…`` while it trains, ``initial`` (phase 1: the untrained
model), ``best`` (of the best validation) and ``model`` (the result). Under ``torchrun`` every rank
trains and rank 0 writes.

The same options find the same run, and phase 2 starts from the phase 1 of the same options, or from
the one that is named. ``resume_run`` finds a run by its folder, whatever the settings are by now;
options that would make it another run are refused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, TypedDict, Unpack

import torch

from ml import kinds
from ml.artifacts import Artifact, ArtifactError, DataLayout, read_manifest, read_object
from ml.device import keep_freed_memory
from ml.locks import lock
from ml.models.config import StemJepaConfig
from ml.models.pretrained import CONFIG_NAME
from ml.plain import dataclass_from, flat, jsonable
from ml.shards.folders import training_folder
from ml.shards.index import split_fingerprint
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
from ml.training.execution import (
    ALGORITHM_VERSION,
    Run,
    execute_run,
    open_pairs,
    run_tags,
)
from ml.training.models import (
    CONTRASTIVE,
    find_checkpoint,
    keep_in_home,
    phase_1_models,
    point_models,
)
from ml.training.run_folder import (
    RECORD_NAME,
    RUN_NAME,
    describe_run,
    differing_fields,
    last_metrics,
    read_run,
)
from ml.training.tracking import NoTracker, RunTracker, describe_datasets

if TYPE_CHECKING:
    from ml.settings import TrainingSettings

_log = logging.getLogger(__name__)
_CPU = torch.device("cpu")
_REFUSED_BY_PHASE_1 = ("model.predictor.", "model.song_share", "pairs.hard_negatives")
"""Fields that phase 1 cannot have, by how they begin: in settings of both phases they are for
phase 2."""
_NOT_OF_PHASE_1 = (
    *(*_REFUSED_BY_PHASE_1, "model.predictor", "model.target_norm", "model.is_context_centred"),
    *("objective.ema_", "objective.nce_", "objective.pooled_weight", "objective.wording_share"),
    *("objective.condition_noise", "optimizer.encoder_", "pairs.music_share"),
)
"""Fields that phase 1 does not read: these, and those that change nothing in it."""
_OF_A_PREDICTOR = ("predictor", "target_norm", "is_context_centred")
"""Fields of a model in which two must agree for one to go on from the predictor of the other."""
_OF_ITS_START = ("model.log_mel", "model.encoder.mel_bins")
"""Fields that a phase 1 takes over from the model that it started from."""


class ConfigOptions(TypedDict, total=False):
    """What, beside its preset, makes a configuration: see ``config.training_config``."""

    size: Size
    """``tiny`` (where left out), ``small`` or ``paper``."""
    seed: int
    """Of initialisation and data order; 0 where left out."""
    overrides: Mapping[str, Any] | None
    """Configuration by dotted field."""


class RunOptions(ConfigOptions, total=False):
    """What a preset is trained on and how; all but ``loop`` makes a run the one it is."""

    corpora: Required[Sequence[str]]
    """Names of the corpora whose shards are trained on."""
    start: str | None
    """The model that it starts from, as ``find_model`` takes it. Phase 1: its encoder and log-mel;
    None: random weights. Presets that need phase 1: a phase 1; None: the one that these options
    train."""
    loop: LoopConfig
    """How often to log, validate and save, and with how many processes to read."""


def run_options(training: TrainingSettings, preset: str) -> RunOptions:
    """Take the options of a preset from the section ``training`` of the settings."""
    phase_1 = training.phase_1 if preset in NEEDS_PHASE_1 else None
    return {
        "corpora": training.corpora,
        "size": training.size,
        "seed": training.seed,
        "overrides": _overrides(training, preset),
        "start": training.start if preset == CONTRASTIVE else phase_1,
        "loop": loop_config(training),
    }


def _overrides(training: TrainingSettings, preset: str) -> dict[str, Any]:
    """Take the overrides of a preset: of the phase 1, what it can have.

    Raises:
        ValueError: one is unknown, or has a wrong value, in either phase.
    """
    weights = {name: x for name, x in training.weights.items() if name in training.corpora}
    overrides = ({"pairs.weights": weights} if weights else {}) | training.overrides
    left = {k: x for k, x in overrides.items() if not k.startswith(_REFUSED_BY_PHASE_1)}
    if preset != CONTRASTIVE or left == overrides:
        return overrides
    training_config("film-nce", size=training.size, overrides=overrides)  # what has all of them
    _log.info("%s leaves to phase 2: %s", preset, ", ".join(sorted(overrides.keys() - left.keys())))
    return left


def loop_config(training: TrainingSettings) -> LoopConfig:
    """Take from the section ``training`` of the settings what does not change the weights."""
    return LoopConfig(workers=training.workers)


def train_preset(
    preset: str,
    *,
    layout: DataLayout,
    device: torch.device = _CPU,
    tracker: Callable[[Path, str], RunTracker] | None = None,
    tags: Mapping[str, str] | None = None,
    **options: Unpack[RunOptions],
) -> Artifact:
    """Train one row of Table I, or reuse or resume it.

    Args:
        preset: one of ``config.PRESETS``.
        layout: where shards and runs lie.
        device: where to compute.
        tracker: makes a tracker from the run folder and the run's name; default: none.
        tags: what else the tracking run should carry.
        options: see ``RunOptions``.

    Returns:
        The checkpoint folder; its summary holds the last metrics.

    Raises:
        ArtifactError: shards are missing, no phase 1 is there as these options would train it, or
            what it starts from is of another size.
        LockedError: another process trains this identity.
        ValueError: a wrong preset, size or field.
    """
    keep_freed_memory()
    with process_group(device) as device:
        run = open_run(preset, layout=layout, device=device, **options)
        return _train_run(run, tracker=tracker, tags=tags)


def trained_model(
    preset: str, *, layout: DataLayout, **options: Unpack[RunOptions]
) -> Artifact | None:
    """Find the model that ``train_preset`` would reuse; train nothing.

    Its preset's name stands for it again, as after training.

    Args:
        preset: as for ``train_preset``; likewise what follows.
        layout: where shards and runs lie.
        options: see ``RunOptions``.

    Returns:
        The checkpoint folder; None: nothing like it was trained to its end.

    Raises:
        ArtifactError: shards or the phase 1 are missing.
        ValueError: a wrong preset, size or field.
    """
    run = open_run(preset, layout=layout, **options)
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

    def begun_from(phase: str) -> Path | None:
        model_id = described["identity"].get(phase)
        return None if model_id is None else _find_begun(layout, model_id)

    with process_group(device) as device:
        run = Run(
            layout=layout,
            config=config,
            shards=folders,
            pairs=open_pairs(folders, config, "train", loop, device=device),
            phase_1=begun_from("phase_1"),
            phase_2=begun_from("phase_2"),
            loop=loop,
            device=device,
        )
        _refuse(name, described["identity"], jsonable(run.identity))
        return _train_run(run, tracker=tracker)


def open_run(
    preset: str,
    *,
    layout: DataLayout,
    corpora: Sequence[str],
    start: str | None = None,
    loop: LoopConfig | None = None,
    device: torch.device = _CPU,
    is_forecast: bool = False,
    **options: Unpack[ConfigOptions],
) -> Run:
    """Make the configuration of a training and open its data; arguments as for ``train_preset``.

    ``is_forecast``: a phase 1 that is not named need not be there yet.

    Raises:
        ArtifactError: shards or what it starts from are missing, or do not fit.
        ValueError: a wrong preset, size or field.
    """
    config, loop = training_config(preset, **options), loop or LoopConfig()
    is_random = start is None and (is_forecast or preset not in NEEDS_PHASE_1)
    begun = None if is_random else _find_start(layout, preset, start, corpora, options)
    if begun is not None:
        config = with_frontend(config, begun, options.get("overrides") or {})
    folders = [training_folder(layout, name) for name in corpora]
    pairs = open_pairs(folders, config, "train", loop, device=device)
    # Only the shards say how wide a condition is.
    predictor = config.model.predictor
    if predictor is not None:
        fitting = replace(predictor, condition_dim=pairs.condition_dim)
        config = replace(config, model=replace(config.model, predictor=fitting))
    return Run(
        layout=layout,
        config=config,
        shards=folders,
        pairs=pairs,
        phase_1=begun,
        phase_2=_phase_2_before(layout, config, pairs, begun),
        loop=loop,
        device=device,
    )


def _find_start(
    layout: DataLayout,
    preset: str,
    text: str | None,
    corpora: Sequence[str],
    options: ConfigOptions,
) -> Path:
    """Find the checkpoint that a training starts from.

    Raises:
        ArtifactError: there is no such model, or no such phase 1.
        ValueError: the preset does not start from the model that was named.
    """
    if text is None:
        return _phase_1_of(layout, preset, corpora, options)
    begun = find_checkpoint(layout, text)
    phase = read_manifest(begun, kinds.MODEL)["phase"]
    if preset != CONTRASTIVE and not (preset in NEEDS_PHASE_1 and phase == CONTRASTIVE):
        raise ValueError(
            f"preset {preset} with a start ({text}): expected {CONTRASTIVE}, as phase 1 is what "
            f"starts from any model, or one of {', '.join(NEEDS_PHASE_1)} with a phase 1; train "
            f"that first: stems train --preset {CONTRASTIVE} --from {text}, then stems train "
            f"--preset {preset}"
        )
    return keep_in_home(layout, begun)


def _phase_2_before(
    layout: DataLayout, config: TrainingConfig, pairs: ShardPairs, phase_1: Path | None
) -> Path | None:
    """Find the model that the phase 1 was begun from, if this phase 2 can go on from it."""
    if phase_1 is None or config.model.predictor is None:
        return None
    model_id = read_manifest(phase_1, kinds.MODEL).get("phase_1_model_id")
    if model_id is None:
        return None
    found = _find_begun(layout, model_id)
    begun = dataclass_from(StemJepaConfig, read_object(found / CONFIG_NAME)["model"])
    if begun.predictor is None:
        return None
    there = {name: getattr(begun, name) for name in _OF_A_PREDICTOR}
    here = {name: getattr(config.model, name) for name in _OF_A_PREDICTOR}
    known = read_manifest(found, kinds.MODEL).get("label_encoder") or {}  # an import has none
    there["label_encoder"] = known.get("fingerprint")
    here["label_encoder"] = pairs.label_encoder["fingerprint"]
    if fields := differing_fields(jsonable(there), jsonable(here)):
        said = f"that of {found.parent.name} differs: {'; '.join(fields)}"
        _log.info("%s begins with a random predictor; %s", config.preset, said)
        return None
    _log.info("%s goes on from the predictor of %s", config.preset, found.parent.name)
    return found


def _phase_1_of(
    layout: DataLayout, preset: str, corpora: Sequence[str], options: ConfigOptions
) -> Path:
    """Find the phase 1 that the options of a phase 2 would train: what it must be, not its name."""
    asked = {
        name: value
        for name, value in (options.get("overrides") or {}).items()
        if not name.startswith(_NOT_OF_PHASE_1)
    }
    config = training_config(CONTRASTIVE, **{**options, "overrides": asked})
    shards = [_train_fingerprint(layout, name) for name in corpora]
    wanted = _of_phase_1(_identity(jsonable(config), shards), corpora)
    differing: dict[Path, list[str]] = {}
    for found in phase_1_models(layout):
        try:
            differing[found] = differing_fields(_described_phase_1(found, corpora), wanted)
        except ArtifactError as error:
            _log.warning("%s is passed over as a phase 1: %s", found, error)
            continue
        if not differing[found]:
            _log.info("%s starts from the phase 1 %s", preset, found.parent.name)
            return found
    near = min(differing, key=lambda found: len(differing[found]), default=None)
    like = f"; {near.parent.name} is nearest: {'; '.join(differing[near])}" if near else ""
    other = f", or start from another with --from {near.parent.name}" if near else ""
    changes = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in asked.items()]
    words = ["--preset", CONTRASTIVE, "--size", config.size, "--seed", str(config.seed)]
    words += ["--corpora", *corpora, *(["--set", *changes] if changes else [])]
    raise ArtifactError(
        f"{layout.runs} holds no phase 1 as {preset} with these options needs it{like}; train it "
        f"first: stems train {shlex.join(words)}{other}"
    )


def _described_phase_1(checkpoint: Path, corpora: Sequence[str]) -> dict[str, Any]:
    path = checkpoint.parent / RUN_NAME
    if path.is_file():
        described = read_object(path)
        return _of_phase_1(described["identity"], described.get("corpora", corpora))
    shards = read_manifest(checkpoint, kinds.MODEL).get("shards", [])
    return _of_phase_1(_identity(read_object(checkpoint / CONFIG_NAME), shards), corpora)


def _identity(config: Mapping[str, Any], shards: Sequence[str]) -> dict[str, Any]:
    return {"algorithm": ALGORITHM_VERSION, "config": config, "shards": shards}


def _of_phase_1(identity: Mapping[str, Any], corpora: Sequence[str]) -> dict[str, Any]:
    """Say by dotted field what a phase 1 must have in common with what phase 2 asks for."""
    left_out = _NOT_OF_PHASE_1 + _OF_ITS_START
    fields = flat(identity["config"]).items()
    return {name: value for name, value in fields if not name.startswith(left_out)} | {
        "algorithm": identity["algorithm"],
        "corpora": sorted(corpora),
        "shards": sorted(identity["shards"]),
    }


def _train_fingerprint(layout: DataLayout, corpus: str) -> str:
    return split_fingerprint(training_folder(layout, corpus).manifest()["shards"], "train")


def _train_run(
    run: Run,
    *,
    tracker: Callable[[Path, str], RunTracker] | None,
    tags: Mapping[str, str] | None = None,
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
        elif rank() == 0:  # of a run that was killed right behind its model
            shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    if rank() == 0:
        point_models(run.layout, run.config.preset, run.folder)
    from_rank_0(None)  # the others wait until it has written the model
    return _artifact(run, is_reused=is_reused)


def _artifact(run: Run, *, is_reused: bool) -> Artifact:
    model = run.folder / "model"
    model_id = read_manifest(model, kinds.MODEL)["model_id"]
    summary = last_metrics(run.folder / RECORD_NAME)
    return Artifact(path=model, fingerprint=model_id, reused=is_reused, summary=summary)


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


def _find_begun(layout: DataLayout, model_id: str) -> Path:
    """Find a checkpoint that a run or its phase 1 was begun from, whatever names stand for now."""
    try:
        return find_checkpoint(layout, model_id)
    except ArtifactError:
        raise ArtifactError(
            f"the model {model_id} that this run or its phase 1 was begun from is not in "
            f"{layout.runs}; bring it back, or train another run, of another phase 1"
        ) from None
