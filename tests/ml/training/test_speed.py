"""Rates and memory of a run."""

import time

import pytest
import torch

from ml.training.config import training_config
from ml.training.cost import SpeedMeter, matmul_rate, memory_peaks, step_cost

CPU = torch.device("cpu")


def test_rates_belong_together(monkeypatch):
    clock = iter([100.0, 101.0, 101.5, 102.0, 102.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    config = training_config("film-nce")
    meter = SpeedMeter(config, CPU, step=10, matmul_rate=1e12)
    with meter.waiting():
        pass
    found = meter.look(14)
    assert found["speed/steps_per_s"] == 2.0
    assert found["speed/chunks_per_s"] == 2.0 * 2 * 64
    assert found["speed/waiting_share"] == 0.25
    assert found["speed/model_flop_per_s"] == pytest.approx(2 * step_cost(config).flops)
    assert found["speed/matmul_share"] == pytest.approx(2 * step_cost(config).flops / 1e12)


def test_an_unknown_rate_gives_no_share():
    meter = SpeedMeter(training_config("film"), CPU, step=0, matmul_rate=None)
    assert "speed/matmul_share" not in meter.look(1)


def test_memory_is_counted_in_bytes():
    found = memory_peaks(CPU)
    assert set(found) == {"memory/process_peak_bytes"}
    block = torch.ones(50_000_000)  # 200 MB, touched
    assert 1e8 < memory_peaks(CPU)["memory/process_peak_bytes"] < 1e12
    del block


def test_a_short_run_does_not_measure_its_device():
    config = training_config("film", overrides={"batch_size": 2})
    assert matmul_rate(config, 1, CPU) is None


def test_measuring_the_device_leaves_the_random_numbers_as_they_were():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = matmul_rate(training_config("film", size="paper"), 1000, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert found is not None
        assert found > 1e8
    else:
        assert found is None
