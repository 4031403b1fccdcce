"""Weights of the predecessor: a checkpoint of the public Stem-JEPA code as a model folder of ours.

Stem-JEPA (Riou et al., arXiv:2408.02514) is saved by Lightning: ``state_dict`` keys below
``encoder.``, ``target_encoder.`` and ``predictor.``, each perhaps below ``_orig_mod.`` too (a
compiled module). Same function as ours (positions come with the file), other names. Read without
running anything in the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ml.artifacts import ArtifactError, file_fingerprint
from ml.audio.mel import LogMelConfig
from ml.labels.taxonomy import FOUR_CLASSES
from ml.labels.untrusted import load_tensors
from ml.models.config import StemJepaConfig
from ml.models.predictor import PredictorConfig
from ml.models.stem_jepa import StemJepa
from ml.models.vit import ViTConfig

NAME = "stem-jepa"
HEAD_DIM = 64
"""Width of an attention head in every ViT size that the predecessor offers."""
_PARTS = ("encoder", "target_encoder", "predictor")
_ENCODER_NAMES = (
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"^(blocks\.\d+)\.mlp\.(fc[12])\.", r"\1.\2."),
)


@dataclass(frozen=True, kw_only=True)
class ImportedConfig:
    """``config.json`` of an imported model."""

    model: StemJepaConfig
    source: str
    """Name of the file it came from."""
    source_sha256: str


def read_predecessor(path: Path, heads: int | None = None) -> tuple[StemJepa, ImportedConfig]:
    """Build the model that a checkpoint of the public Stem-JEPA code describes.

    Args:
        path: the Lightning file.
        heads: attention heads; default: one per 64 dimensions.

    Returns:
        The model (encoder, target encoder, class predictor; log-mel and target normalisation of
        the predecessor) and its configuration, read off the shapes.

    Raises:
        ArtifactError: the file cannot be read, or tensors are missing, left over or of shapes that
            do not fit together; names them.
    """
    content = load_tensors(path, expected="a checkpoint of the Stem-JEPA code")
    tensors = _tensors(content.get("state_dict", content), path)
    parts = {part: _below(tensors, part) for part in _PARTS}
    missing = [part for part in _PARTS if not parts[part]]
    if missing:
        found = ", ".join(sorted({name.split(".")[0] for name in tensors})) or "no tensors"
        raise ArtifactError(
            f"{path} has no tensors below {missing[0]!r} (found: {found}); expected a checkpoint "
            f"of the Stem-JEPA code with {', '.join(_PARTS)}"
        )
    config = ImportedConfig(
        model=_config(parts, heads, path), source=path.name, source_sha256=file_fingerprint(path)
    )
    model = StemJepa(config.model)
    weights = {
        "encoder": _encoder_weights(parts["encoder"]),
        "target_encoder": _encoder_weights(parts["target_encoder"]),
        "predictor": _predictor_weights(parts["predictor"]),
    }
    for part, state in weights.items():
        try:
            getattr(model, part).load_state_dict(state)
        except RuntimeError as error:
            raise ArtifactError(
                f"{path}: the tensors below {part!r} are not those of Stem-JEPA: {error}"
            ) from None
    return model.eval(), config


def _config(
    parts: Mapping[str, Mapping[str, Tensor]], heads: int | None, path: Path
) -> StemJepaConfig:
    encoder, predictor = parts["encoder"], parts["predictor"]
    try:
        kernel = encoder["patch_embed.proj.weight"]  # (dim, 1, patch, patch)
        dim, patch = kernel.shape[0], kernel.shape[-1]
        fc1 = encoder["blocks.0.mlp.fc1.weight"]  # (mlp_ratio · dim, dim)
        positions = encoder["pos_embed"]  # (1, freq_patch, time_patch, dim)
        first = predictor["blocks.0.weight"]  # (hidden, 2 · dim)
        n_classes = len(predictor["source_embed.weight"])
    except KeyError as error:
        raise ArtifactError(
            f"{path} has no tensor {error.args[0]!r} in its encoder or predictor; expected the "
            "ViT and the class predictor of Stem-JEPA"
        ) from None
    log_mel = LogMelConfig(floor=torch.finfo(torch.float32).eps)
    freq_patches = log_mel.mel_bins // patch
    if positions.shape[:2] != (1, freq_patches) or positions.ndim != 4 or first.shape[1] != 2 * dim:
        raise ArtifactError(
            f"{path} has pos_embed {tuple(positions.shape)} and a predictor of {first.shape[1]} "
            f"inputs; expected (1, {freq_patches}, time patches, {dim}) and {2 * dim}: the ViT and "
            "the MLP with 'concat' conditioning of Stem-JEPA"
        )
    if n_classes != len(FOUR_CLASSES):
        raise ArtifactError(f"{path} has {n_classes} classes; expected {len(FOUR_CLASSES)}")
    time_patches = positions.shape[2]
    return StemJepaConfig(
        log_mel=log_mel,
        encoder=ViTConfig(
            dim=dim,
            layers=1 + max(_numbers(encoder, r"^blocks\.(\d+)\.")),
            heads=heads or max(1, dim // HEAD_DIM),
            mlp_ratio=fc1.shape[0] // dim,
            patch=patch,
            mel_bins=log_mel.mel_bins,
            stored_positions=time_patches,
        ),
        predictor=PredictorConfig(
            conditioning="class",
            dim=dim,
            hidden=first.shape[0],
            layers=len(_numbers(predictor, r"^blocks\.(\d+)\.weight")),
        ),
        chunk_s=time_patches * patch * log_mel.hop_samples / log_mel.rate_hz,
    )


def _encoder_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in tensors.items():
        for pattern, ours in _ENCODER_NAMES:
            name = re.sub(pattern, ours, name)
        weights[name] = tensor
    weights["pos_embed"] = weights["pos_embed"].flatten(0, 2)
    return weights


def _predictor_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``blocks.0, 2, 4…`` are the linear layers, the odd ones their activations."""
    weights = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"blocks\.(\d+)\.(weight|bias)", name):
            name = f"linears.{int(match[1]) // 2}.{match[2]}"
        weights[name.replace("source_embed.", "class_embed.")] = tensor
    return weights


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise ArtifactError(
            f"{path} holds a 'state_dict' that is a {type(content).__name__}; expected a dict"
        )
    return {
        re.sub(r"(^|\.)_orig_mod\.", r"\1", str(name)): tensor.detach().to(torch.float32)
        for name, tensor in content.items()
        if isinstance(tensor, Tensor)
    }


def _below(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _numbers(tensors: Mapping[str, Tensor], pattern: str) -> set[int]:
    return {int(match[1]) for name in tensors if (match := re.match(pattern, name))}
