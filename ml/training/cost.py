"""What a training costs: a step counted from the configuration, and a run measured as it goes.

Counted are parameters, floating-point work and memory; measured are steps a second, the share of
the device's matrix rate, and peaks of memory. ``torch.utils.flop_counter`` counts the same work
(a test compares them), but only of a model that is built and run.
"""

from __future__ import annotations

import contextlib
import itertools
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ml.device import has_native_bf16, measure_matmul_rate
from ml.models.predictor import PredictorConfig, layer_widths
from ml.models.vit import ViTConfig
from ml.training.config import LoopConfig, TrainingConfig
from ml.training.distributed import world

_BACKWARD = 2
"""A backward pass does twice the work of a forward one."""
_LONG_FLOPS = 1e13
"""A run with less work than this (seconds on any device) does not measure its device first."""


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
    recomputed_gb: float
    """The same with ``LoopConfig.is_recomputing``: the input of each block, and all of one."""

    def fits(self, memory_gb: float) -> bool:
        """Tell whether a step fits into a device without computing blocks again.

        A tenth of its memory is left to the batch, the matrix library and what lies between.
        """
        return self.state_gb + self.activations_gb <= 0.9 * memory_gb


def step_cost(config: TrainingConfig) -> StepCost:
    """Count the cost of one step at a configuration."""
    model, batch = config.model, config.batch_size
    freq_patches, time_patches, _ = model.patch_grid
    patches = freq_patches * time_patches
    forward = encoder_flops(model.encoder, patches)
    encoder = _encoder_parameters(model.encoder)
    kept = _encoder_kept(model.encoder, patches)
    again = kept / model.encoder.layers + 2 * patches * model.encoder.dim * model.encoder.layers
    if model.predictor is None:
        chunks = batch * (2 + config.pairs.negatives)
        return StepCost(
            parameters=encoder + 1,
            flops=chunks * forward * (1 + _BACKWARD),
            state_gb=encoder * 16 / 1e9,
            activations_gb=chunks * kept / 1e9,
            recomputed_gb=chunks * again / 1e9,
        )
    predictor = _predictor_parameters(model.predictor)
    per_chunk = predictor_flops(model.predictor, patches)
    targets = 1 + config.pairs.hard_negatives  # chunks of a pair for the target encoder
    beside = _predictor_kept(model.predictor, patches)
    learned, chunks, frozen = encoder + predictor, 1, encoder * 12
    if model.song_share:  # heads; the encoder hears the stem too; the song part's encoder
        learned += 2 * model.encoder.dim * (model.encoder.dim + 3)
        chunks, frozen = 2, frozen + encoder * 4
    return StepCost(
        parameters=learned,
        flops=batch * ((chunks * forward + per_chunk) * (1 + _BACKWARD) + targets * forward),
        state_gb=(learned * 16 + frozen) / 1e9,
        activations_gb=batch * (chunks * kept + beside) / 1e9,
        recomputed_gb=batch * (chunks * again + beside) / 1e9,
    )


def encoder_flops(config: ViTConfig, patches: int) -> float:
    """Count a forward pass of one chunk."""
    dim = config.dim
    linear = (4 + 2 * config.mlp_ratio) * dim * dim  # qkv, projection, two of the MLP
    attention = 2 * patches * dim  # scores and mixing, per patch
    per_layer = 2 * patches * (linear + attention)
    return 2 * patches * config.patch**2 * dim + config.layers * per_layer


def predictor_flops(config: PredictorConfig, patches: int) -> float:
    """Count a forward pass of one chunk; the maps of the condition, once a chunk, included."""
    per_patch = sum(a * b for a, b in itertools.pairwise(layer_widths(config)))
    films = 2 * config.condition_dim * config.hidden * (config.layers - 1)
    return 2 * (patches * per_patch + (films if config.conditioning == "film" else 0))


def _encoder_parameters(config: ViTConfig) -> int:
    dim = config.dim
    block = (4 + 2 * config.mlp_ratio) * dim * dim + (9 + config.mlp_ratio) * dim
    return config.patch**2 * dim + dim + config.layers * block + 2 * dim


def _predictor_parameters(config: PredictorConfig) -> int:
    linears = sum((a + 1) * b for a, b in itertools.pairwise(layer_widths(config)))
    films = 2 * (config.condition_dim + 1) * config.hidden * (config.layers - 1)
    table = 4 * config.dim if config.conditioning == "class" else 0
    norm = 0 if config.is_residual else 2 * config.dim
    return linears + table + norm + (films if config.conditioning == "film" else 0)


def _encoder_kept(config: ViTConfig, patches: int) -> float:
    """Count bytes a chunk: per block about 10 + 2 · mlp_ratio vectors of a patch, in bf16."""
    return 2 * patches * config.dim * config.layers * (10 + 2 * config.mlp_ratio)


def _predictor_kept(config: PredictorConfig, patches: int) -> float:
    return 2 * patches * config.hidden * config.layers * 3


class SpeedMeter:
    """Rates between two looks; counting costs two readings of the clock a step."""

    def __init__(
        self, config: TrainingConfig, device: torch.device, *, step: int, matmul_rate: float | None
    ) -> None:
        """Start the clock.

        Args:
            config: what is trained.
            device: where.
            step: steps done.
            matmul_rate: of one device, ``matmul_rate``; None: unknown.
        """
        self._device = device
        self._chunks = 2 * config.batch_size
        self._flops = step_cost(config).flops
        self._matmul_rate = None if matmul_rate is None else matmul_rate * world()
        self._step, self._started, self._waited_s = step, time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count what happens inside as waiting for data."""
        before = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - before

    def look(self, step: int) -> dict[str, float]:
        """Measure since the last look, and start the clock again.

        Args:
            step: steps done now.

        Returns:
            ``speed/…``: ``steps_per_s``, ``chunks_per_s`` (contexts and targets), ``waiting_share``
            in [0, 1], ``model_flop_per_s`` (``step_cost``: what the model needs, not what was
            done) and ``matmul_share``, that in shares of the matrix rate of all devices, where it
            is known; ``memory/…_bytes`` as ``memory_peaks``.
        """
        elapsed_s = time.perf_counter() - self._started
        per_s = (step - self._step) / elapsed_s if elapsed_s else 0.0
        metrics = {
            "speed/steps_per_s": per_s,
            "speed/chunks_per_s": per_s * self._chunks,
            "speed/waiting_share": self._waited_s / elapsed_s if elapsed_s else 0.0,
            "speed/model_flop_per_s": per_s * self._flops,
        }
        if self._matmul_rate is not None:
            metrics["speed/matmul_share"] = per_s * self._flops / self._matmul_rate
        self._step, self._started, self._waited_s = step, time.perf_counter(), 0.0
        return metrics | memory_peaks(self._device)


def device_gb(device: torch.device) -> float | None:
    """Get the memory of a GPU; None for a CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).total_memory / 1e9


def is_recomputing(config: TrainingConfig, loop: LoopConfig, memory_gb: float | None) -> bool:
    """Decide whether blocks are computed again, on a device of this memory (None: a CPU)."""
    if loop.is_recomputing is not None:
        return loop.is_recomputing
    mine = replace(config, batch_size=max(2, config.batch_size // world()))
    return memory_gb is not None and not step_cost(mine).fits(memory_gb)


def memory_peaks(device: torch.device) -> dict[str, float]:
    """Get the most memory so far: of this process, and of its tensors on a GPU.

    Returns:
        ``memory/process_peak_bytes`` (resident, without workers) and on a GPU
        ``memory/device_peak_bytes``.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peaks = {"memory/process_peak_bytes": peak * (1.0 if sys.platform == "darwin" else 1024.0)}
    if device.type == "cuda":
        peaks["memory/device_peak_bytes"] = float(torch.cuda.max_memory_allocated(device))
    return peaks


def matmul_rate(config: TrainingConfig, steps: int, device: torch.device) -> float | None:
    """Measure the device's bf16 matrix rate in FLOP/s, in under a second.

    Args:
        config: what is to be trained.
        steps: how many of its steps are left.
        device: where.

    Returns:
        None where it is not worth measuring: the run is over in seconds, or the device is a CPU
        that has no bf16.
    """
    is_short = steps * step_cost(config).flops < _LONG_FLOPS
    if is_short or (device.type == "cpu" and not has_native_bf16()):
        return None
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # training finds its random numbers as they were
        return measure_matmul_rate(device, seconds=0.3 if devices else 0.05)
