"""What a step costs, counted from the configuration: parameters, floating-point work, memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from ml.models.predictor import PredictorConfig
from ml.models.vit import ViTConfig
from ml.training.config import TrainingConfig

_BACKWARD = 2
"""A backward pass does twice the work of a forward one."""


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Counts for one optimiser step of the global batch."""

    parameters: int
    """Learned numbers (the target encoder, a copy, is not among them)."""
    flops: float
    """Multiplications and additions of all matrix products, forward and backward."""
    state_gb: float
    """Weights, gradients, optimiser state, target encoder and its float64 master copy."""
    activations_gb: float
    """What the backward pass keeps, roughly: bf16, attention without its square matrix."""


def step_cost(config: TrainingConfig) -> StepCost:
    """The cost of one step at a configuration."""
    model, batch = config.model, config.batch_size
    freq_patches, time_patches, _ = model.patch_grid
    patches = freq_patches * time_patches
    forward = encoder_flops(model.encoder, patches)
    encoder = _encoder_parameters(model.encoder)
    kept = _encoder_kept(model.encoder, patches)
    if model.predictor is None:
        return StepCost(
            parameters=encoder + 1,
            flops=2 * batch * forward * (1 + _BACKWARD),
            state_gb=encoder * 16 / 1e9,
            activations_gb=2 * batch * kept / 1e9,
        )
    predictor = _predictor_parameters(model.predictor)
    per_chunk = predictor_flops(model.predictor, patches)
    targets = 1 + config.pairs.hard_negatives  # chunks of a pair for the target encoder
    return StepCost(
        parameters=encoder + predictor,
        flops=batch * ((forward + per_chunk) * (1 + _BACKWARD) + targets * forward),
        state_gb=((encoder + predictor) * 16 + encoder * 12) / 1e9,
        activations_gb=batch * (kept + _predictor_kept(model.predictor, patches)) / 1e9,
    )


def encoder_flops(config: ViTConfig, patches: int) -> float:
    """Forward pass of one chunk."""
    dim = config.dim
    linear = (4 + 2 * config.mlp_ratio) * dim * dim  # qkv, projection, two of the MLP
    attention = 2 * patches * dim  # scores and mixing, per patch
    per_layer = 2 * patches * (linear + attention)
    return 2 * patches * config.patch**2 * dim + config.layers * per_layer


def predictor_flops(config: PredictorConfig, patches: int) -> float:
    """Forward pass of one chunk; the maps of the condition, once a chunk, included."""
    beside = {"concat": config.condition_dim, "class": config.dim}.get(config.conditioning, 0)
    widths = [config.dim + beside, *[config.hidden] * (config.layers - 1), config.dim]
    per_patch = sum(a * b for a, b in itertools.pairwise(widths))
    films = 2 * config.condition_dim * config.hidden * (config.layers - 1)
    return 2 * (patches * per_patch + (films if config.conditioning == "film" else 0))


def _encoder_parameters(config: ViTConfig) -> int:
    dim = config.dim
    block = (4 + 2 * config.mlp_ratio) * dim * dim + (9 + config.mlp_ratio) * dim
    return config.patch**2 * dim + dim + config.layers * block + 2 * dim


def _predictor_parameters(config: PredictorConfig) -> int:
    beside = {"concat": config.condition_dim, "class": config.dim}.get(config.conditioning, 0)
    widths = [config.dim + beside, *[config.hidden] * (config.layers - 1), config.dim]
    linears = sum((a + 1) * b for a, b in itertools.pairwise(widths))
    films = 2 * (config.condition_dim + 1) * config.hidden * (config.layers - 1)
    table = 4 * config.dim if config.conditioning == "class" else 0
    norm = 0 if config.is_residual else 2 * config.dim
    return linears + table + norm + (films if config.conditioning == "film" else 0)


def _encoder_kept(config: ViTConfig, patches: int) -> float:
    """Bytes a chunk: per block about 10 + 2 · mlp_ratio vectors of a patch, in bf16."""
    return 2 * patches * config.dim * config.layers * (10 + 2 * config.mlp_ratio)


def _predictor_kept(config: PredictorConfig, patches: int) -> float:
    return 2 * patches * config.hidden * config.layers * 3
