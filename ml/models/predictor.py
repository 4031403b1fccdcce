"""The predictor: an MLP on each patch, conditioned on the target's instrument.

Riou et al., section II-C, equation 5: h ← ReLU(γ_l(c) · h + β_l(c)) at each hidden layer.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ml.labels.taxonomy import FOUR_CLASSES
from ml.plain import added_field

Conditioning = Literal["film", "concat", "class", "none"]


@dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """Size and conditioning of the predictor. The defaults are the paper's."""

    conditioning: Conditioning = "film"
    """``film``: the paper. ``concat``: the condition beside each patch. ``class``: the
    predecessor's learned table of four classes, beside each patch. ``none``: unconditioned."""
    dim: int = 768
    """Width of patches, in and out."""
    hidden: int = 1024
    """Width of hidden layers."""
    layers: int = 6
    """Linear layers; ``layers - 1`` of them are followed by a ReLU."""
    condition_dim: int = 512
    """Width of a condition."""
    is_residual: bool = False
    """Differs: ẑ = z + g(z, c) with g zero at first, so that phase 2 starts at the score of
    phase 1 (see ``StemJepaConfig.is_context_centred``). No LayerNorm after it. Off in ``paper``."""
    is_condition_centred: bool = added_field(False)
    """Differs: minus the mean of the training labels' embeddings (buffer ``condition_mean``), which
    all texts share and which tells no instrument from another. ``film`` and ``concat``."""
    is_plainly_drawn: bool = added_field(False)
    """Draw linear layers as torch does (predecessor). False: as He, with zero biases. Differs:
    ``film`` needs it, at size ``paper`` too: torch's shrink what they hear of the mix from layer to
    layer, while FiLM adds the condition at each."""

    def __post_init__(self) -> None:
        if self.layers < 2:
            raise ValueError(f"layers={self.layers}: the predictor needs at least 2")
        if self.is_condition_centred and self.conditioning not in ("film", "concat"):
            raise ValueError(
                f"is_condition_centred with conditioning {self.conditioning!r}: expected film or "
                "concat, the others take no embedding of a label; leave it false"
            )


class Predictor(nn.Module):
    """Conditioned MLP applied to each patch alone, with a final LayerNorm (predecessor).

    Conditions have unit norm; they are multiplied by √condition_dim so that their entries are of
    order 1. FiLM starts as γ = 1, β ≈ 0: with the library's initialisation γ is near 0 and the
    predictor cannot see the mix.

    Buffer with ``is_condition_centred``: ``condition_mean`` (condition_dim,), 0 until it is set.
    """

    condition_mean: Tensor

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.class_embed = (
            nn.Embedding(len(FOUR_CLASSES), config.dim) if config.conditioning == "class" else None
        )
        self.linears = nn.ModuleList(
            nn.Linear(narrow, wide) for narrow, wide in itertools.pairwise(layer_widths(config))
        )
        self.films = nn.ModuleList(
            FiLM(config.condition_dim, config.hidden)
            for _ in range(config.layers - 1 if config.conditioning == "film" else 0)
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-5)
        if config.is_condition_centred:
            self.register_buffer("condition_mean", torch.zeros(config.condition_dim))
        self._initialise()

    def forward(
        self, patches: Tensor, condition: Tensor | None = None, four_class: Tensor | None = None
    ) -> Tensor:
        """Predict the target's patches from the context's (equation 2).

        Args:
            patches: (batch, patch, dim), the context's.
            condition: (batch, condition_dim), unit norm; used by ``film`` and ``concat``.
            four_class: (batch,) int in 0…3, index into ``FOUR_CLASSES``; used by ``class``.

        Returns:
            (batch, patch, dim).

        Raises:
            ValueError: what this conditioning needs was not given, or has another width.
        """
        condition = self._condition(patches, condition, four_class)
        hidden = patches
        if self.config.conditioning in ("concat", "class"):
            assert condition is not None
            beside = condition[:, None].expand(-1, patches.shape[1], -1)
            hidden = torch.cat([patches, beside.to(patches)], dim=-1)
        for index, linear in enumerate(self.linears[:-1]):
            hidden = linear(hidden)
            if self.films:
                hidden = self.films[index](hidden, condition)
            hidden = hidden.relu()
        hidden = self.linears[-1](hidden)
        return patches + hidden if self.config.is_residual else self.norm(hidden)

    def _condition(
        self, patches: Tensor, condition: Tensor | None, four_class: Tensor | None
    ) -> Tensor | None:
        kind = self.config.conditioning
        if kind == "none":
            return None
        if kind == "class":
            if four_class is None or self.class_embed is None:
                raise ValueError("conditioning 'class' needs four_class (batch,)")
            return self.class_embed(four_class)
        wanted = (patches.shape[0], self.config.condition_dim)
        shape = None if condition is None else tuple(condition.shape)
        if condition is None or shape != wanted:
            raise ValueError(
                f"condition has shape {shape}, expected {wanted}; "
                "encode labels with the encoder the model was trained with"
            )
        if self.config.is_condition_centred:
            condition = condition - self.condition_mean
        return condition * math.sqrt(self.config.condition_dim)

    def _initialise(self) -> None:
        for linear in () if self.config.is_plainly_drawn else self.linears:
            assert isinstance(linear, nn.Linear)
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
        if self.config.is_residual:
            last = self.linears[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            # It stays in checkpoints, but gradients that never come stall those of all ranks.
            self.norm.requires_grad_(False)


class FiLM(nn.Module):
    """Feature-wise affine map h ← γ(c) · h + β(c), starting near the identity."""

    def __init__(self, condition_dim: int, hidden: int) -> None:
        super().__init__()
        self.gamma = nn.Linear(condition_dim, hidden)
        self.beta = nn.Linear(condition_dim, hidden)
        for linear, bias in ((self.gamma, 1.0), (self.beta, 0.0)):
            nn.init.normal_(linear.weight, std=0.25 / math.sqrt(condition_dim))
            nn.init.constant_(linear.bias, bias)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """Map (batch, patch, hidden) by (batch, condition_dim) to (batch, patch, hidden)."""
        gamma, beta = self.gamma(condition), self.beta(condition)
        return gamma[:, None] * hidden + beta[:, None]


def layer_widths(config: PredictorConfig) -> list[int]:
    """List the widths before, between and after the linear layers."""
    beside = {"concat": config.condition_dim, "class": config.dim}.get(config.conditioning, 0)
    return [config.dim + beside, *[config.hidden] * (config.layers - 1), config.dim]


def build_predictor(config: PredictorConfig) -> Predictor:
    """Build the predictor of a configuration."""
    return Predictor(config)
