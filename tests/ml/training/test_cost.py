"""Counted costs against the model itself and the design's figures."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ml.models.stem_jepa import StemJepa
from ml.training.config import PRESETS, training_config
from ml.training.cost import encoder_flops, step_cost

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
    mel = torch.randn(2, 80, 400, dtype=torch.bfloat16)
    with FlopCounterMode(display=False) as counter:
        patches = model.encoder(mel).flatten(1, 2)
        assert model.predictor is not None
        four_class = torch.zeros(2, dtype=torch.long)
        condition = torch.randn(2, 384, dtype=torch.bfloat16)
        model.predictor(patches, condition, four_class).sum().backward()
        model.target_patches(mel)
    # By hand the gradient into the log-mel is counted too, which nobody computes.
    assert step_cost(config).flops == pytest.approx(counter.get_total_flops(), rel=0.02)


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


@pytest.mark.parametrize(("preset", "teraflops"), [("contrastive", 69), ("film", 48)])
def test_the_paper_size_costs_what_the_design_says(preset, teraflops):
    config = training_config(preset, size="paper", condition_dim=512)
    assert step_cost(config).flops / 1e12 == pytest.approx(teraflops, rel=0.02)
