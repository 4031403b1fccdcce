"""Training the ``tiny`` size on this machine: what loading and tracking take from it.

Peers, in turns with the measured run so that a busy machine disturbs both: batches held in memory,
and a run that nothing tracks. ``train_for`` and ``held_batches`` also serve ``ml.benchmarks.gpu``.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from ml.benchmarks.loader import Tones, write_tone_shards
from ml.benchmarks.measure import Measure
from ml.device import keep_freed_memory
from ml.models.stem_jepa import StemJepa
from ml.plain import flat, jsonable
from ml.processes import cores
from ml.shards.index import Payload
from ml.shards.pairs import LABEL_LEVELS, PairBatch
from ml.shards.plan import ShardConfig
from ml.shards.reader import ShardPairs
from ml.training.config import LoopConfig, TrainingConfig, training_config
from ml.training.loop import TrainState, build_state, train
from ml.training.run_folder import MetricsRecord
from ml.training.tracking import MlflowTracker, NoTracker, RunTracker

STEPS, ROUNDS = 20, 5
"""Of one timed piece, and how often the pieces take turns; the median of a peer's rounds counts."""
NEVER = 10**9
QUIET = LoopConfig(log_every=10, validate_every=NEVER, checkpoint_every=NEVER)
CONDITION_DIM = 64
Log = Callable[[int, dict[str, float]], None]


@dataclass(kw_only=True)
class Pieces:
    """One training that goes on piece by piece, on whatever batches it is given."""

    state: TrainState
    device: torch.device
    loop: LoopConfig = QUIET
    log: Log = lambda _step, _metrics: None

    def run(self, batches: Iterator[PairBatch], steps: int) -> float:
        """Train on; returns steps per second."""
        state = self.state
        state.config = replace(state.config, steps=state.step + steps)
        started = time.perf_counter()
        train(
            state,
            batches,
            loop=self.loop,
            device=self.device,
            log=self.log,
            save=lambda _state: None,
        )
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return steps / (time.perf_counter() - started)


def start(config: TrainingConfig, device: torch.device) -> Pieces:
    """Begin a training."""
    torch.manual_seed(config.seed)
    return Pieces(state=build_state(config, StemJepa(config.model).to(device)), device=device)


def held_batches(config: TrainingConfig, n: int = 4) -> list[PairBatch]:
    """Draw batches of noise at training's shapes: a target and a mix."""
    rng = np.random.default_rng(0)
    size, samples = config.batch_size, round(config.pairs.chunk_s * config.model.log_mel.rate_hz)
    predictor = config.model.predictor
    dim = CONDITION_DIM if predictor is None else predictor.condition_dim

    def noise(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(-8000, 8000, shape, dtype=np.int16))

    def batch() -> PairBatch:
        return PairBatch(
            context=noise(size, samples) / 32_768,
            target=noise(size, samples),
            target_gain=torch.ones(size),
            condition=torch.from_numpy(rng.standard_normal((size, dim), dtype=np.float32)),
            four_class=torch.from_numpy(rng.integers(0, 4, size)),
            track=torch.arange(size),
            asked=torch.from_numpy(labels := rng.integers(0, 8, size)),
            label_ids=torch.from_numpy(labels)[:, None].repeat(1, LABEL_LEVELS),
            labels=[""] * size,
            keys=[f"noise {i}" for i in range(size)],
        )

    return [batch() for _ in range(n)]


def measure() -> Iterator[Measure]:
    """Measure loading from shards, then tracking."""
    logging.getLogger("ml.shards").setLevel(logging.ERROR)
    keep_freed_memory()  # as every training does
    with tempfile.TemporaryDirectory(prefix="training-") as scratch:
        yield measure_loading(Path(scratch), "pcm16")
        for decoded_gb in (QUIET.decoded_gb, 0.0):
            yield measure_loading(Path(scratch), "flac", decoded_gb)
        yield measure_tracking(Path(scratch))


def measure_loading(scratch: Path, payload: Payload, decoded_gb: float = 0.0) -> Measure:
    """Measure chunks per second from shards, read once before, beside those from memory."""
    config = training_config("film-nce", condition_dim=CONDITION_DIM)
    tones = Tones(tracks=96, track_s=16.0, condition_dim=CONDITION_DIM)
    stored = ShardConfig(payload=payload, shard_segments=24)
    folder = scratch / payload
    if not folder.exists():
        write_tone_shards(folder, tones, stored, workers=cores())
    loaded = open_pairs(folder, config, workers=0, decoded_gb=decoded_gb)
    held = list(itertools.islice(loaded.batches(), 4))
    for _ in loaded.batches(stop=8 * loaded.batches_per_epoch):
        pass
    sources = {"shards": loaded.batches(), "memory": itertools.cycle(held)}
    rates = take_turns(sources, start(config, torch.device("cpu")))
    chunks = 2 * config.batch_size
    return Measure(
        name=f"training `tiny` from {payload} shards{', kept decoded' if decoded_gb else ''}",
        value=chunks * rates["shards"],
        unit="chunks/s",
        asked=0.9 * chunks * rates["memory"],
        peer="batches held in memory",
        peer_value=chunks * rates["memory"],
        note=f"4 s chunks, film-nce, {cores()} cores, decoded in the training process",
    )


def measure_tracking(scratch: Path) -> Measure:
    """Measure what sending metrics to an open local MLflow store takes from training.

    The processor time of the thread that sends, as if training stood still meanwhile, and what the
    loop spends on the record: the wall times of turns with and without differ by more than this
    from one turn to the next.
    """
    config = training_config("film-nce", condition_dim=CONDITION_DIM)
    pieces = start(config, torch.device("cpu"))
    folder = scratch / "run"
    folder.mkdir()
    trackers: dict[str, RunTracker] = {
        "nothing": NoTracker(),
        "mlflow": MlflowTracker(
            run_folder=folder,
            uri=f"sqlite:///{scratch}/mlflow.db",
            experiment="bench",
            run_name="bench",
        ),
    }
    record = MetricsRecord(folder, from_step=0)
    trackers["mlflow"].start(flat(jsonable(config)), {"training_id": "bench"})
    while not (folder / "mlflow.json").is_file():
        time.sleep(0.1)
    held = itertools.cycle(held_batches(config))
    pieces.run(held, 3)
    rates: dict[str, list[float]] = {name: [] for name in trackers}
    taken: dict[str, float] = dict.fromkeys(trackers, 0.0)
    for name in [*trackers] * ROUNDS:
        meter = _TrackingMeter()
        pieces.log = meter.timed(_tracked(trackers[name], record))
        rates[name].append(pieces.run(held, STEPS))
        taken[name] += meter.taken_s()
    trackers["mlflow"].finish()
    tracked, bare = (median(rates[name]) for name in ("mlflow", "nothing"))
    return Measure(
        name="time that tracking takes from training `tiny`",
        value=100 * taken["mlflow"] / sum(STEPS / rate for rate in rates["mlflow"]),
        unit="%",
        asked=2.0,
        lower_is_better=True,
        note=f"a line every {QUIET.log_every} steps to SQLite, {cores()} cores; {tracked:.2f} "
        f"steps/s, {bare:.2f} without; opening the store (once, 3 s beside training) is left out",
    )


def take_turns(sources: dict[str, Iterator[PairBatch]], pieces: Pieces) -> dict[str, float]:
    """Measure steps per second on each source, the median of rounds in turn."""
    for batches in sources.values():
        pieces.run(batches, 3)
    rates: dict[str, list[float]] = {name: [] for name in sources}
    for name in [*sources] * ROUNDS:
        rates[name].append(pieces.run(sources[name], STEPS))
    return {name: median(found) for name, found in rates.items()}


def open_pairs(
    folder: Path,
    config: TrainingConfig,
    workers: int,
    decoded_gb: float = 0.0,
    is_pinned: bool = False,
) -> ShardPairs:
    """Open the loader as training uses it."""
    return ShardPairs(
        [folder],
        config=config.pairs,
        batch_size=config.batch_size,
        seed=0,
        workers=workers,
        is_pinned=is_pinned,
        decoded_gb=decoded_gb,
    )


class _TrackingMeter:
    """Seconds that the loop spends on logging and the processor on the thread that sends."""

    def __init__(self) -> None:
        self._begun_s = self._thread_s()
        self._loop_s = 0.0

    def timed(self, log: Log) -> Log:
        def timed_log(step: int, metrics: dict[str, float]) -> None:
            started = time.perf_counter()
            log(step, metrics)
            self._loop_s += time.perf_counter() - started

        return timed_log

    def taken_s(self) -> float:
        return self._loop_s + self._thread_s() - self._begun_s

    def _thread_s(self) -> float:
        import psutil  # a bare GPU box does without

        senders = {x.native_id for x in threading.enumerate() if x.name == "mlflow"}
        threads = psutil.Process().threads()
        return sum(x.user_time + x.system_time for x in threads if x.id in senders)


def _tracked(tracker: RunTracker, record: MetricsRecord) -> Log:
    def log(step: int, metrics: dict[str, float]) -> None:
        record.append(step, metrics)
        tracker.ship()

    return log
