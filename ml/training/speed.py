"""How fast a run is, what share of the device it uses, and how much memory it has needed."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator

import torch

from ml.device import measure_matmul_rate
from ml.training.config import TrainingConfig
from ml.training.cost import step_cost
from ml.training.distributed import world

_LONG_FLOPS = 1e13
"""A run with less work than this (seconds on any device) does not measure its device first."""


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
        """What happens inside is waiting for data."""
        before = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - before

    def look(self, step: int) -> dict[str, float]:
        """Metrics since the last look, which is when the clock starts again.

        Args:
            step: steps done now.

        Returns:
            ``speed/…``: ``steps_per_s``, ``chunks_per_s`` (contexts and targets), ``waiting_share``
            in [0, 1], ``model_flop_per_s`` (``cost.step_cost``: what the model needs, not what was
            done) and ``matmul_share``, that in shares of the matrix rate of all devices, where it
            is known; ``memory/…_bytes`` as ``memory_peaks``.
        """
        elapsed_s = time.perf_counter() - self._started
        per_s = (step - self._step) / elapsed_s if elapsed_s else 0.0
        found = {
            "speed/steps_per_s": per_s,
            "speed/chunks_per_s": per_s * self._chunks,
            "speed/waiting_share": self._waited_s / elapsed_s if elapsed_s else 0.0,
            "speed/model_flop_per_s": per_s * self._flops,
        }
        if self._matmul_rate is not None:
            found["speed/matmul_share"] = per_s * self._flops / self._matmul_rate
        self._step, self._started, self._waited_s = step, time.perf_counter(), 0.0
        return found | memory_peaks(self._device)


def memory_peaks(device: torch.device) -> dict[str, float]:
    """The most memory so far: of this process, and of its tensors on a GPU.

    Returns:
        ``memory/process_peak_bytes`` (resident, without workers) and on a GPU
        ``memory/device_peak_bytes``.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"memory/process_peak_bytes": peak * (1.0 if sys.platform == "darwin" else 1024.0)}
    if device.type == "cuda":
        found["memory/device_peak_bytes"] = float(torch.cuda.max_memory_allocated(device))
    return found


def matmul_rate(config: TrainingConfig, steps: int, device: torch.device) -> float | None:
    """The device's bf16 matrix rate in FLOP/s, measured in under a second.

    Args:
        config: what is to be trained.
        steps: how many of its steps are left.
        device: where.

    Returns:
        None where it is not worth measuring: the run is over in seconds, or the device is a CPU
        that has no bf16.
    """
    is_short = steps * step_cost(config).flops < _LONG_FLOPS
    if is_short or (device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return None
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # training finds its random numbers as they were
        return measure_matmul_rate(device, seconds=0.3 if devices else 0.05)
