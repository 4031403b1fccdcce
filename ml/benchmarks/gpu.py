"""Training at paper size on a GPU: share of the device's matrix rate, and what loading takes.

``make bench-gpu``, or ``python -m ml.benchmarks gpu``: needs torch, torchaudio, numpy, soundfile
and webdataset alone, makes its own data, and takes about 8 minutes on one H200 with 16 cores.
Without a GPU it rehearses the same at ``tiny`` size on the CPU.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ml.benchmarks.loader import Tones, write_tone_shards
from ml.benchmarks.measure import Measure, peak_memory_gb
from ml.benchmarks.training import Pieces, held_batches, open_pairs, start
from ml.device import choose_device, measure_matmul_rate
from ml.processes import cores
from ml.shards.pairs import PairBatch
from ml.shards.plan import ShardConfig
from ml.training.config import Size, TrainingConfig, training_config
from ml.training.cost import step_cost
from ml.training.distributed import loader_processes

PRESETS = ("contrastive", "film")
"""The two phases."""
PAPER_STEPS_PER_S = 0.87
"""Riou et al.: 300k steps in about 4 days on one A100-40GB."""
_WARMUP_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How large and how long."""

    size: Size
    tones: Tones
    timed_s: float
    """Of each timed run, about."""
    workers: int
    """Processes that decode."""

    @classmethod
    def on(cls, device: torch.device) -> Plan:
        """Plan paper size on a GPU; on a CPU a rehearsal that takes a minute."""
        if device.type == "cuda":
            workers = loader_processes(None, device)  # as training does
            return cls(size="paper", tones=Tones(tracks=1024), timed_s=25.0, workers=workers)
        tones = Tones(tracks=64, track_s=16.0, condition_dim=64)
        return cls(size="tiny", tones=tones, timed_s=4.0, workers=1)


def measure() -> Iterator[Measure]:
    """Measure both phases, on batches in memory and from FLAC shards."""
    logging.getLogger("ml.shards").setLevel(logging.ERROR)
    device = choose_device("auto")
    plan = Plan.on(device)
    rate = measure_matmul_rate(device)
    yield Measure(
        name=f"bf16 matrix products on {_name(device)}",
        value=rate / 1e12,
        unit="TFLOP/s",
        note=f"torch {torch.__version__}",
    )
    with tempfile.TemporaryDirectory(prefix="gpu-") as scratch:
        started = time.perf_counter()
        shards = ShardConfig(payload="flac", shard_segments=64, valid_share=0.0)
        folder = write_tone_shards(Path(scratch) / "tones", plan.tones, shards, workers=cores())
        yield Measure(
            name=f"making {plan.tones.stem_s / 3600:.1f} h of stems as FLAC shards",
            value=time.perf_counter() - started,
            unit="s",
            note=f"{cores()} cores",
        )
        for preset in PRESETS:
            config = training_config(preset, size=plan.size, condition_dim=plan.tones.condition_dim)
            yield from measure_phase(config, folder, plan, device, rate)


def measure_phase(
    config: TrainingConfig, folder: Path, plan: Plan, device: torch.device, matmul_rate: float
) -> Iterator[Measure]:
    """Measure the rate with batches in memory, then with batches from shards; peak memory."""
    pieces = start(config, device)
    held = [
        batch.pin_memory() if device.type == "cuda" else batch for batch in held_batches(config)
    ]
    compiled_s = _seconds(pieces, itertools.cycle(held), _WARMUP_STEPS)
    in_memory = _timed(pieces, itertools.cycle(held), plan.timed_s)
    cost = step_cost(config)
    name = f"{config.preset} at {config.size} size, batch {config.batch_size}"
    yield Measure(
        name=f"{name}, share of the matrix rate",
        value=100 * in_memory * cost.flops / matmul_rate,
        unit="%",
        asked=45.0 if config.size == "paper" else None,
        note=f"{in_memory:.2f} steps/s, {in_memory * cost.flops / 1e12:.0f} TFLOP/s, "
        f"{in_memory / PAPER_STEPS_PER_S:.1f} x the paper's rate on an A100; "
        f"first {_WARMUP_STEPS} steps {compiled_s:.0f} s",
    )
    yield Measure(name=f"{name}, peak memory", value=_peak_gb(device), unit="GB")
    loaded = open_pairs(folder, config, plan.workers, is_pinned=device.type == "cuda").batches()
    _seconds(pieces, loaded, _WARMUP_STEPS)
    from_shards = _timed(pieces, loaded, plan.timed_s)
    yield Measure(
        name=f"{name}, from FLAC shards by {plan.workers} processes",
        value=from_shards,
        unit="steps/s",
        asked=0.9 * in_memory if config.size == "paper" else None,
        peer="batches held in memory",
        peer_value=in_memory,
    )


def _timed(pieces: Pieces, batches: Iterator[PairBatch], seconds: float) -> float:
    """Measure steps per second over about so many seconds."""
    probe = pieces.run(batches, 2)
    return pieces.run(batches, max(3, round(seconds * probe)))


def _seconds(pieces: Pieces, batches: Iterator[PairBatch], steps: int) -> float:
    return steps / pieces.run(batches, steps)


def _peak_gb(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else peak_memory_gb()


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
