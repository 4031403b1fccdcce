"""The target encoder as an exponential moving average of the encoder (equation 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """θ̄ ← τ·θ̄ + (1 − τ)·θ for parameters, accumulated in float64.

    At τ = 0.99999 a float32 average loses most of each update to rounding; the float64 master
    copy does not, and the target encoder holds its float32 rounding.
    """

    def __init__(self, target: nn.Module) -> None:
        self._targets = [p.detach() for p in target.parameters()]
        self._master: list[Tensor] = [p.double() for p in self._targets]

    @torch.no_grad()
    def update(self, source: nn.Module, rate: float) -> None:
        """One step with τ = ``rate`` in [0, 1]; ``source`` has the parameters of the target."""
        sources = [p.detach().double() for p in source.parameters()]
        for target, master, new in zip(self._targets, self._master, sources, strict=True):
            target.copy_(master.lerp_(new, 1 - rate))

    def state_dict(self) -> dict[str, Any]:
        """The master copy, for exact resume."""
        return {"master": self._master}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        for target, master, saved in zip(self._targets, self._master, state["master"], strict=True):
            master.copy_(saved)
            target.copy_(master)
