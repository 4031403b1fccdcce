"""What a training will take, before it starts: ``stems train --dry-run``."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ml.models.stem_jepa import StemJepa
from ml.shards.pairs import PairBatch
from ml.shards.reader import ShardPairs
from ml.training.config import TrainingConfig
from ml.training.cost import StepCost, step_cost
from ml.training.loop import build_state, train_step

_PROBE_FLOPS = {"cpu": 2e11, "cuda": 2e13}
"""About how much work a timed step is given: half a second or so."""
_TIMED_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Counted and measured, for people."""

    cost: StepCost
    segments: int
    """Segments that can give a pair."""
    steps_per_epoch: int
    steps: int
    compute_s: float
    """Of one step, from a few timed steps of a smaller batch on this device, by FLOPs."""
    loading_s: float
    """Of one batch, from a few that the processes of the training have loaded."""
    workers: int
    """Processes that load; 0: loading and computing take turns."""

    @property
    def step_s(self) -> float:
        """Seconds a step: loading beside computing where there are workers, else in turn."""
        if self.workers == 0:
            return self.compute_s + self.loading_s
        return max(self.compute_s, self.loading_s)

    @property
    def hours(self) -> float:
        """The whole training."""
        return self.steps * self.step_s / 3600

    @property
    def flops_per_s(self) -> float:
        """What the device did while it was timed."""
        return self.cost.flops / self.compute_s


def forecast_training(
    config: TrainingConfig, pairs: ShardPairs, *, device: torch.device
) -> Forecast:
    """Count what a configuration costs and time a few steps of it, and of its reading processes.

    Raises:
        ArtifactError: a shard is damaged.
    """
    cost = step_cost(config)
    per_pair = cost.flops / config.batch_size
    rows = max(2, min(config.batch_size, int(_PROBE_FLOPS.get(device.type, 2e11) / per_pair)))
    batch, loading_s = _time_loading(pairs)
    batch = _first(batch, rows)
    small = replace(config, batch_size=rows)
    state = build_state(small, StemJepa(config.model).to(device))
    train_step(state, batch, device)
    started = time.perf_counter()
    for _ in range(_TIMED_STEPS):
        train_step(state, batch, device)
    timed_s = (time.perf_counter() - started) / _TIMED_STEPS
    return Forecast(
        cost=cost,
        segments=pairs.n_segments,
        steps_per_epoch=pairs.batches_per_epoch,
        steps=config.steps,
        compute_s=timed_s * config.batch_size / rows,
        loading_s=loading_s,
        workers=pairs.workers,
    )


def _time_loading(pairs: ShardPairs) -> tuple[PairBatch, float]:
    """Load two batches by each process and time the second; gives a batch, and seconds a batch.

    When the first of all is there, each process is about to begin its second.
    """
    processes = max(1, pairs.workers)
    batches = pairs.batches(stop=2 * processes)
    batch, started = next(batches), time.perf_counter()
    for _ in batches:
        pass
    return batch, (time.perf_counter() - started) / processes


def _first(batch: PairBatch, rows: int) -> PairBatch:
    cut: dict[str, Any] = {
        field.name: value[:rows]
        for field in fields(batch)
        if isinstance(value := getattr(batch, field.name), (Tensor, list))
    }
    return replace(batch, **cut)
