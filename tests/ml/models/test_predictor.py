"""The predictor: FiLM is live at initialisation, and is a plain MLP when it does nothing."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ml.models.predictor import PredictorConfig, build_predictor

CONFIG = PredictorConfig(dim=32, hidden=64, layers=6, condition_dim=48)


@pytest.fixture
def predictor():
    torch.manual_seed(0)
    return build_predictor(CONFIG)


def test_film_with_gamma_1_and_beta_0_equals_a_plain_mlp(predictor):
    for film in predictor.films:
        for linear, bias in ((film.gamma, 1.0), (film.beta, 0.0)):
            nn.init.zeros_(linear.weight)
            nn.init.constant_(linear.bias, bias)
    patches = torch.randn(3, 7, 32)
    hidden = patches
    for linear in predictor.linears[:-1]:
        hidden = F.relu(linear(hidden))
    expected = predictor.norm(predictor.linears[-1](hidden))
    condition = F.normalize(torch.randn(3, 48), dim=-1)
    torch.testing.assert_close(predictor(patches, condition), expected)


def test_the_prediction_depends_on_the_mix_at_initialisation(predictor):
    patches = torch.randn(16, 1, 32)
    conditions = F.normalize(torch.randn(16, 48), dim=-1)
    with torch.no_grad():
        over_inputs = predictor(patches, conditions[:1].expand(16, -1)).std(0).mean()
        over_conditions = predictor(patches[:1].expand(16, -1, -1), conditions).std(0).mean()
    assert over_inputs >= 0.1 * over_conditions
    assert over_conditions > 1e-3  # and it is not deaf to the instrument either


@pytest.mark.parametrize("conditioning", ["film", "concat", "class", "none"])
@pytest.mark.parametrize("is_residual", [False, True])
def test_every_conditioning_keeps_the_shape(conditioning, is_residual):
    config = PredictorConfig(
        conditioning=conditioning,
        dim=32,
        hidden=16,
        condition_dim=48,
        is_residual=is_residual,
    )
    patches = torch.randn(2, 5, 32)
    out = build_predictor(config)(patches, torch.randn(2, 48), torch.tensor([0, 3]))
    assert out.shape == patches.shape


def test_a_residual_predictor_starts_as_the_identity():
    config = PredictorConfig(dim=32, hidden=16, condition_dim=48, is_residual=True)
    patches = torch.randn(2, 5, 32)
    out = build_predictor(config)(patches, torch.randn(2, 48))
    torch.testing.assert_close(out, patches)


def test_a_condition_of_another_encoder_is_refused(predictor):
    with pytest.raises(ValueError, match="encoder the model was trained with"):
        predictor(torch.randn(2, 5, 32), torch.randn(2, 47))
    with pytest.raises(ValueError, match="None"):
        predictor(torch.randn(2, 5, 32))


@pytest.mark.parametrize("conditioning", ["film", "concat"])
def test_a_centred_condition_is_the_condition_minus_the_mean(conditioning):
    torch.manual_seed(0)
    config = replace(CONFIG, conditioning=conditioning)
    plain = build_predictor(config)
    centred = build_predictor(replace(config, is_condition_centred=True))
    centred.load_state_dict(plain.state_dict(), strict=False)
    patches, condition, mean = torch.randn(3, 7, 32), torch.randn(3, 48), torch.randn(48)
    torch.testing.assert_close(centred(patches, condition), plain(patches, condition))
    centred.condition_mean.copy_(mean)
    torch.testing.assert_close(centred(patches, condition), plain(patches, condition - mean))
    assert "condition_mean" in centred.state_dict()
    assert "condition_mean" not in plain.state_dict()


def test_only_embeddings_can_be_centred():
    with pytest.raises(ValueError, match="conditioning 'class'"):
        PredictorConfig(conditioning="class", is_condition_centred=True)


def test_a_predictor_without_film_can_be_drawn_as_the_library_does():
    config = replace(CONFIG, conditioning="concat", is_plainly_drawn=True)
    for linear in build_predictor(config).linears:
        assert isinstance(linear, nn.Linear)
        bound = linear.in_features**-0.5
        assert 0.9 * bound < linear.weight.abs().max() <= bound
        assert linear.bias.abs().max() > 0
