"""The benchmark of a GPU, rehearsed at the smallest size on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ml.benchmarks.gpu import Plan, measure_phase
from ml.benchmarks.loader import Tones, write_tone_shards
from ml.shards.plan import ShardConfig
from ml.shards.reader import ShardPairs
from ml.training.config import training_config

TONES = Tones(tracks=6, stems=3, track_s=4.0, condition_dim=8)
SMALLEST = {
    "batch_size": 4,
    "model.encoder.dim": 16,
    "model.encoder.layers": 1,
    "model.encoder.heads": 2,
}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "tones"
    stored = ShardConfig(segment_s=4.0, chunk_s=4.0, shard_segments=4)
    return write_tone_shards(folder, TONES, stored, workers=2)


def test_tones_are_shards_as_training_reads_them(tones: Path):
    pairs = ShardPairs([tones], batch_size=2, seed=0)
    assert (pairs.n_segments, len(pairs.tracks), pairs.condition_dim) == (6, 6, 8)
    norms = next(pairs.batches()).condition.norm(dim=1)
    assert torch.allclose(norms, torch.ones(2), atol=1e-3)  # stored as float16


@pytest.mark.parametrize("preset", ["contrastive", "film"])
def test_a_phase_is_measured_from_memory_and_from_shards(tones: Path, preset: str):
    width: dict[str, Any] = {} if preset == "contrastive" else {"model.predictor.dim": 16}
    config = training_config(preset, condition_dim=8, overrides=SMALLEST | width)
    plan = Plan(size="tiny", tones=TONES, timed_s=0.1, workers=0)
    share, memory, shards = measure_phase(config, tones, plan, torch.device("cpu"), 1e12)
    assert 0 < share.value < 100
    assert memory.unit == "GB"
    assert shards.value > 0
    assert shards.peer_value is not None
