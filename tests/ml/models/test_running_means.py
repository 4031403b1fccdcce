"""Running means and deviations: exact over what was seen, and never of one chunk over its time."""

import pytest
import torch

from ml.models.config import StemJepaConfig
from ml.models.predictor import PredictorConfig
from ml.models.running_means import RunningMeans, at_places
from ml.models.vit import ViTConfig

GRID = (5, 7, 4)
"""freq_patch, time_patch, dim."""


def means(**changes) -> RunningMeans:
    predictor = PredictorConfig(dim=4, hidden=8, condition_dim=8)
    encoder = ViTConfig(dim=4, layers=1, heads=1)
    config = StemJepaConfig(encoder=encoder, predictor=predictor, chunk_s=1.0, **changes)
    assert config.patch_grid == GRID
    return RunningMeans(config)


def see(found: RunningMeans, target, context=None):
    found.update_means(
        target=target, target_spread=found.target_spread(target), context_patches=context
    )


@pytest.fixture
def batches():
    torch.manual_seed(0)
    return [3 + torch.randn(6, *GRID) * torch.tensor([0.1, 1, 2, 5]) + i for i in range(4)]


def test_the_first_updates_give_the_exact_deviation_of_all_that_was_seen(batches):
    found = means(target_norm="centre-scale")
    for batch in batches:
        see(found, batch)
    seen = torch.cat(batches)
    about = seen - seen.mean(0)  # by place
    torch.testing.assert_close(found.target_variance, about.square().mean((0, 2)))


def test_later_updates_stay_the_variance_about_the_running_mean(batches):
    found = means(target_norm="centre-scale")
    found.mean_updates.fill_(10_000)
    found.target_variance.fill_(2.0)
    see(found, batches[0])
    mean = 0.01 * batches[0].mean(0)
    old = 2.0 + mean.square()  # what was seen before had mean 0 and variance 2
    new = (batches[0] - mean).square().mean(0)
    expected = (0.99 * old + 0.01 * new).mean(1)
    torch.testing.assert_close(found.target_variance, expected)


def test_scaled_targets_have_deviation_1_in_each_dimension_and_row(batches):
    found = means(target_norm="centre-scale")
    see(found, batches[0])
    rows = found.normalise_target(batches[0]).unflatten(1, GRID[:2])  # (6, 5, 7, 4)
    torch.testing.assert_close(rows.mean(0), torch.zeros(GRID), atol=1e-4, rtol=0)
    power = rows.square().mean((0, 2))
    torch.testing.assert_close(power, torch.ones(GRID[0], GRID[2]), atol=1e-4, rtol=1e-4)


def test_what_a_chunk_has_at_all_times_stays(batches):
    found = means(target_norm="centre-scale")
    see(found, batches[0])
    colour = torch.randn(GRID[0], 1, GRID[2])
    plain, coloured = (found.normalise_target(x) for x in (batches[1], batches[1] + colour))
    scale = found.target_variance.sqrt()[:, None]
    expected = (colour / scale).expand(GRID).flatten(0, 1)
    torch.testing.assert_close((coloured - plain)[0], expected, atol=1e-4, rtol=1e-3)


def test_a_dimension_that_never_moves_is_not_blown_up():
    found = means(target_norm="centre-scale")
    still = torch.ones(3, *GRID)
    see(found, still)
    assert found.normalise_target(still + 1e-4).abs().max() < 1


def test_contexts_are_centred_by_their_own_mean_and_scaled_as_targets_are(batches):
    plain, scaled = (
        means(target_norm=norm, is_context_centred=True) for norm in ("centre", "centre-scale")
    )
    for found in (plain, scaled):
        see(found, batches[0], context=batches[1])
    centred = (batches[1] - batches[1].mean(0)).flatten(1, 2)
    torch.testing.assert_close(plain.normalise_context(batches[1]), centred)
    deviation = scaled.target_variance.sqrt()[:, None].expand(GRID).flatten(0, 1)
    torch.testing.assert_close(scaled.normalise_context(batches[1]), centred / deviation)


def test_without_the_fields_there_are_no_further_buffers_and_contexts_stay(batches):
    found = means(target_norm="centre")
    assert set(dict(found.named_buffers())) == {
        *("context_mean", "target_mean", "mean_updates", "spectrum_mean")
    }
    assert torch.equal(found.normalise_context(batches[0]), batches[0].flatten(1, 2))


def test_a_mean_by_place_is_truncated_or_continued():
    mean = torch.arange(6.0).reshape(1, 6, 1)
    assert at_places(mean, 2).flatten().tolist() == [0, 1]
    assert at_places(mean, 8).flatten().tolist() == [0, 1, 2, 3, 4, 5, 2.5, 2.5]


def test_a_misspelt_normalisation_is_named():
    with pytest.raises(ValueError, match="'center'; expected one of standardise, centre"):
        StemJepaConfig(target_norm="center")  # pyright: ignore[reportArgumentType]
