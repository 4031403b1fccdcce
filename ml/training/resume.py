"""``stems train --resume RUN``: go on with a run by its folder, as it was begun.

The same options find the same run without this (``ml.training.runs``). By its folder a run is found
whatever the settings and the current phase-1 model are by now; options that would make it another
run are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ml.artifacts import MANIFEST_NAME, Artifact, ArtifactError, DataLayout, read_json
from ml.device import keep_freed_memory
from ml.plain import dataclass_from, jsonable
from ml.shards.folders import training_folder
from ml.training.config import LoopConfig, TrainingConfig
from ml.training.distributed import process_group
from ml.training.execution import Run, open_pairs
from ml.training.presets import changed_config
from ml.training.run_description import differing_fields, read_run
from ml.training.runs import train_run
from ml.training.tracking import NoTracker, RunTracker


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
    for manifest in sorted(layout.runs.glob(f"*/model/{MANIFEST_NAME}")):
        if read_json(manifest).get("model_id") == model_id:
            return manifest.parent
    raise ArtifactError(
        f"the phase-1 model {model_id} that this run started from is not in {layout.runs}; bring "
        "it back, or train another run without --resume"
    )
