"""Checkpoints: a model folder that can be loaded alone, plus what exact resume needs.

``config.json`` (how to build the model), ``model.safetensors`` (weights and running means),
``training_state.pt`` (optimizer, EMA master copy, temperature, step; tensors and plain types only)
and ``manifest.json`` (what it is and what it has seen). Written aside, renamed last.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ml.artifacts import (
    MANIFEST_NAME,
    ArtifactError,
    write_folder_aside,
    write_json,
)
from ml.models.stem_jepa import FORMAT_VERSION, StemJepa
from ml.plain import jsonable
from ml.training.config import TrainingConfig

STATE_NAME = "training_state.pt"


def save_checkpoint(
    path: Path,
    model: StemJepa,
    config: TrainingConfig,
    *,
    origin: dict[str, Any],
    state: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a checkpoint folder.

    Args:
        path: the folder; replaced when it exists.
        model: whose weights are saved.
        config: what it is trained with.
        origin: what it has seen: ``name``, ``training_tracks``, ``training_labels``,
            ``label_encoder``, …, copied into the manifest.
        state: what exact resume needs; None for a checkpoint that is only used.

    Returns:
        The manifest; ``model_id`` is a fingerprint of configuration and weights.
    """
    from safetensors.torch import save

    weights = save({name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()})
    built = json.dumps(jsonable(config), sort_keys=True)
    model_id = hashlib.sha256(built.encode() + weights).hexdigest()[:16]
    manifest = {
        "format_version": FORMAT_VERSION,
        "model_id": model_id,
        "phase": model.phase,
        **origin,
    }
    with write_folder_aside(path) as aside:
        (aside / "model.safetensors").write_bytes(weights)
        write_json(aside / "config.json", config)
        if state is not None:
            torch.save(state, aside / STATE_NAME)
        write_json(aside / MANIFEST_NAME, manifest)
    return manifest


def load_training_state(path: Path) -> dict[str, Any]:
    """What ``save_checkpoint`` got as ``state``, plus the weights under ``model``.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = torch.load(path / STATE_NAME, map_location="cpu", weights_only=True)
        return {**state, "model": load_file(path / "model.safetensors")}
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"{path} cannot be resumed from: {error}; delete this checkpoint to resume from the "
            "one before it"
        ) from None


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], prefix: str) -> None:
    """Copy the weights below ``prefix`` into ``module``, strictly."""
    part = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    module.load_state_dict(part)
