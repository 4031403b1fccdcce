"""Counted costs against the model itself and the design's figures; rates and memory of a run."""

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ml.models.stem_jepa import StemJepa
from ml.training.config import PRESETS, training_config
from ml.training.cost import SpeedMeter, encoder_flops, matmul_rate, memory_peaks, step_cost

RESIDUAL = {"model.predictor.is_residual": True}


@pytest.mark.parametrize(("preset", "overrides"), [*((x, {}) for x in PRESETS), ("film", RESIDUAL)])
def test_parameters_are_those_of_the_model(preset, overrides):
    config = training_config(preset, overrides=overrides)
    model = StemJepa(config.model)
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    temperature = 1 if preset == "contrastive" else 0
    assert step_cost(config).parameters == learned + temperature


@pytest.mark.parametrize("preset", ["film", "clap", "class"])
def test_flops_are_those_of_the_matrix_products(preset):
    config = training_config(preset, overrides={"batch_size": 2})
    model = StemJepa(config.model).bfloat16()  # attention is written out, so it is counted
    mel = torch.randn(2, 160, 200, dtype=torch.bfloat16)
    with FlopCounterMode(display=False) as counter:
        patches = model.encoder(mel).flatten(1, 2)
        assert model.predictor is not None
        four_class = torch.zeros(2, dtype=torch.long)
        condition = torch.randn(2, 384, dtype=torch.bfloat16)
        model.predictor(patches, condition, four_class).sum().backward()
        model.target_patches(mel)
    # By hand the gradient into the log-mel is counted too, which nobody computes.
    assert step_cost(config).flops == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("preset", ["contrastive", "film"])
def test_paper_fits_a_card_of_40_gb_as_the_papers_did(preset):
    cost = step_cost(training_config(preset, size="paper", condition_dim=512))
    assert cost.fits(80)
    assert cost.fits(40) == (preset == "film")
    assert cost.state_gb + cost.recomputed_gb < 0.5 * 40


def test_each_hard_negative_costs_a_pass_of_the_target_encoder():
    one, two, three = (
        step_cost(training_config("film-nce", overrides={"pairs.hard_negatives": k})).flops
        for k in range(3)
    )
    config = training_config("film-nce")
    freq_patches, time_patches, _ = config.model.patch_grid
    forward = encoder_flops(config.model.encoder, freq_patches * time_patches)
    assert two - one == pytest.approx(64 * forward)
    assert three - two == pytest.approx(64 * forward)


def test_two_parts_cost_a_pass_of_the_encoder_over_the_stem():
    one, two = (step_cost(training_config(preset)).flops for preset in ("film-nce", "two-part"))
    config = training_config("two-part").model
    freq_patches, time_patches, _ = config.patch_grid
    forward = encoder_flops(config.encoder, freq_patches * time_patches)
    assert two - one == pytest.approx(64 * 3 * forward)


@pytest.mark.parametrize(("preset", "teraflops"), [("contrastive", 69), ("film", 48)])
def test_the_paper_size_costs_what_the_design_says(preset, teraflops):
    config = training_config(preset, size="paper", condition_dim=512)
    assert step_cost(config).flops / 1e12 == pytest.approx(teraflops, rel=0.02)


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
