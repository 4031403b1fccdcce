"""The one training loop, for both phases: validate, save, stop?, step, log."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ml.models.stem_jepa import StemJepa
from ml.shards.pairs import PairBatch
from ml.training.batches import Wordings, mel_batch, vary_conditions
from ml.training.config import LoopConfig, TrainingConfig, warmup_cosine
from ml.training.contrastive import ContrastivePhase
from ml.training.cost import SpeedMeter, device_gb, is_recomputing
from ml.training.distributed import any_rank, global_mean, world
from ml.training.jepa import JepaPhase
from ml.training.watch import warn_of_collapse

Phase = ContrastivePhase | JepaPhase
_log = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is NaN or infinite; training stopped before it reached weights."""


@dataclass(kw_only=True)
class TrainState:
    """All that a resumed run needs besides data: a batch is a pure function of the step."""

    config: TrainingConfig
    model: StemJepa
    phase: Phase
    optimizer: torch.optim.Optimizer
    step: int = 0
    """Steps done."""
    best: float = math.inf
    """Lowest within-label rank of a validation so far."""
    wordings: Wordings = field(default_factory=dict)
    """For ``objective.wording_share``."""

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model's own weights."""
        state = {"step": self.step, "best": self.best, "optimizer": self.optimizer.state_dict()}
        if isinstance(self.phase, ContrastivePhase):
            return state | {"log_temperature": self.phase.log_temperature.detach()}
        return state | {"ema": self.phase.ema.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict`` plus the weights under ``model``."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]
        if isinstance(self.phase, ContrastivePhase):
            self.phase.log_temperature.copy_(state["log_temperature"])
        else:
            self.phase.ema.load_state_dict(state["ema"])


def build_state(config: TrainingConfig, model: StemJepa) -> TrainState:
    """Make phase and optimizer for a model at step 0."""
    phase = (JepaPhase if model.predictor is not None else ContrastivePhase)(model, config)
    return TrainState(
        config=config, model=model, phase=phase, optimizer=build_optimizer(phase, config)
    )


def build_optimizer(phase: Phase, config: TrainingConfig) -> torch.optim.AdamW:
    """Build AdamW with one parameter group per rate and decay; ``rate`` scales the schedule."""
    settings = config.optimizer
    groups: list[dict[str, Any]] = []
    for name, (part, rate) in phase.learned_parts().items():
        parameters = [part] if isinstance(part, nn.Parameter) else list(part.parameters())
        for is_matrix in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == is_matrix]
            is_decayed = is_matrix or (settings.is_decaying_all and name != "temperature")
            decay = settings.weight_decay if is_decayed else 0.0
            if chosen:
                groups.append({"params": chosen, "part": name, "rate": rate, "weight_decay": decay})
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        fused=True,
    )


def train(
    state: TrainState,
    batches: Iterator[PairBatch],
    *,
    loop: LoopConfig,
    device: torch.device,
    log: Callable[[int, dict[str, float]], None],
    save: Callable[[TrainState], None],
    save_best: Callable[[TrainState], None] | None = None,
    valid: list[PairBatch] | None = None,
    matmul_rate: float | None = None,
) -> None:
    """Train from ``state.step`` to ``config.steps``; ``state`` is changed in place.

    Args:
        state: where to start.
        batches: training batches from number ``state.step`` on.
        loop: how often to log, validate and save.
        device: where to compute.
        log: gets the step (steps done) and metrics by name.
        save: writes a checkpoint of the state; called every ``checkpoint_s`` seconds or
            ``checkpoint_every`` steps, after the last one, and when the process is asked to stop.
        save_best: writes the best state so far, by the within-label rank of validations.
        valid: batches to validate on.
        matmul_rate: of the device in FLOP/s, where the share of it that is used shall be logged.

    Raises:
        NonFiniteLossError: names the step and the samples of the batch; the state before it is
            saved.
        KeyboardInterrupt: SIGINT or SIGTERM came; the step was finished and saved.
    """
    config = state.config
    meter = SpeedMeter(config, device, step=state.step, matmul_rate=matmul_rate)
    forward = distributed_phase(state, loop, device)
    saved_s, is_warned = time.monotonic(), False
    with stop_requests() as is_stop_requested:
        while state.step < config.steps:
            with meter.waiting():
                batch = next(batches)
            # ----------------------------------------------------------------------------------
            try:
                metrics = train_step(state, batch, device, forward)
            except NonFiniteLossError:
                save(state)  # as it was before this step
                raise
            # ----------------------------------------------------------------------------------
            is_last = state.step == config.steps
            is_stopping = any_rank(is_stop_requested())
            if state.step % loop.log_every == 0 or is_last:
                values = {name: float(global_mean(value)) for name, value in metrics.items()}
                log(state.step, values | meter.look(state.step))
            if valid and (state.step % loop.validate_every == 0 or is_last):
                log(state.step, validated := validate(state, valid, device))
                is_warned = is_warned or warn_of_collapse(validated, state.step)
                rank = validated[f"{state.model.phase}/valid_within_label_rank"]
                if save_best is not None and rank < state.best:
                    state.best = rank
                    save_best(state)
            is_due = loop.checkpoint_every and state.step % loop.checkpoint_every == 0
            is_due = is_due or time.monotonic() - saved_s >= loop.checkpoint_s
            if is_due or is_last or is_stopping:
                save(state)
                saved_s = time.monotonic()
            if is_stopping and not is_last:
                raise KeyboardInterrupt(f"stopped at step {state.step}, a checkpoint is saved")


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a question that the loop asks between two steps.

    Outside the main thread, where Python allows no handlers, nothing changes.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(kind, lambda *_: requested.set()) for kind in kinds]
    try:
        yield requested.is_set
    finally:
        for kind, handler in zip(kinds, previous, strict=True):
            signal.signal(kind, handler)


def distributed_phase(state: TrainState, loop: LoopConfig, device: torch.device) -> nn.Module:
    """Wrap the phase: its networks compiled and its gradients averaged over ranks where asked.

    The encoder computes its blocks twice where the device has too little memory.
    """
    model = state.model
    model.encoder.is_recomputing = is_recomputing(state.config, loop, device_gb(device))
    is_compiled = device.type == "cuda" if loop.is_compiled is None else loop.is_compiled
    if is_compiled:
        for part in (model.encoder, model.target_encoder, model.predictor):
            if part is not None:
                part.compile()
    if world() == 1:
        return state.phase
    return nn.parallel.DistributedDataParallel(
        state.phase,
        device_ids=[device.index] if device.type == "cuda" else None,
        broadcast_buffers=False,  # running means are equal on all ranks already
    )


def train_step(
    state: TrainState, batch: PairBatch, device: torch.device, forward: nn.Module | None = None
) -> dict[str, Tensor]:
    """Do one step: forward, backward, update, then the phase's running state.

    ``forward`` is the phase as ``distributed_phase`` gives it; default: the phase itself.
    """
    config, step = state.config, state.step
    objective, seed = config.objective, config.seed * 1_000_003 + step
    rate = set_rates(state.optimizer, config, step)
    state.phase.train()
    with torch.no_grad():
        mels = mel_batch(
            vary_conditions(batch, objective, state.wordings, seed),
            state.model.log_mel,
            device,
            gain_db=objective.gain_db,
            eq_db=objective.eq_db,
            seed=seed,
        )
    loss, metrics = (forward or state.phase)(mels)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, config.optimizer.clip_norm)
    _check_finite(global_mean(loss), norm, batch, step)
    state.optimizer.step()
    state.phase.after_step(step)
    state.step = step + 1
    prefix = state.model.phase
    return metrics | {
        f"{prefix}/gradient_norm": norm,
        f"{prefix}/learning_rate": torch.tensor(rate, dtype=torch.float64, device=device),
    }


def _check_finite(loss: Tensor, norm: Tensor, batch: PairBatch, step: int) -> None:
    """Stop before a step that would spoil the weights; the one time that a step waits for a GPU."""
    values = torch.stack([loss.float(), norm.float()]).tolist()
    if all(math.isfinite(value) for value in values):
        return
    _log.error("samples of the batch of step %d: %s", step, ", ".join(batch.keys))
    raise NonFiniteLossError(
        f"the loss is {values[0]:g} and its gradient's norm {values[1]:g} at step {step}; the "
        f"batch's samples are {', '.join(batch.keys[:8])}, … (all {len(batch)} are in the log); a "
        "checkpoint from before this step is saved; look at the samples, or lower "
        "optimizer.learning_rate"
    )


def set_rates(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int) -> float:
    """Give each group the rate of this step; returns the rate of groups with factor 1."""
    settings = config.optimizer
    rate = warmup_cosine(
        step,
        steps=config.steps,
        warmup_steps=settings.warmup_steps,
        peak=settings.learning_rate,
    )
    is_frozen = step < settings.encoder_frozen_share * config.steps
    for group in optimizer.param_groups:
        factor = 0.0 if is_frozen and group["part"] == "encoder" else group["rate"]
        group["lr"] = rate * factor
    return rate


@torch.no_grad()
def validate(state: TrainState, batches: list[PairBatch], device: torch.device) -> dict[str, float]:
    """Average metrics over batches that are not trained on, as ``<phase>/valid_<metric>``."""
    state.phase.eval()
    sums: dict[str, Tensor] = {}
    for batch in batches:
        _, metrics = state.phase(mel_batch(batch, state.model.log_mel, device))
        for name, value in metrics.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + global_mean(value)
    return {
        name.replace("/", "/valid_", 1): float(total) / len(batches) for name, total in sums.items()
    }
