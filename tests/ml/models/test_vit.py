"""The encoder: shapes, positions, independence of batch items, its attention."""

import pytest
import torch
from torch.nn import functional as F

from ml.models.vit import ViTConfig, ViTEncoder, plain_attention, sincos_positions

CONFIG = ViTConfig(dim=32, layers=2, heads=4)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return ViTEncoder(CONFIG).eval()


def test_eight_seconds_give_5_by_50_patches(encoder):
    assert encoder(torch.randn(2, 80, 800)).shape == (2, 5, 50, 32)


@pytest.mark.parametrize("frames", [16, 17, 400, 999])
def test_any_length_gives_a_patch_per_16_frames(encoder, frames):
    assert encoder(torch.randn(1, 80, frames)).shape == (1, 5, -(-frames // 16), 32)


def test_an_item_does_not_depend_on_the_others_of_its_batch(encoder):
    mel = torch.randn(3, 80, 64)
    alone = encoder(mel[1:2])
    torch.testing.assert_close(encoder(mel)[1:2], alone, rtol=1e-4, atol=1e-5)
    other = torch.cat([mel[1:2], 100 * torch.randn(2, 80, 64)])
    torch.testing.assert_close(encoder(other)[:1], alone, rtol=1e-4, atol=1e-5)


def test_positions_are_continued_never_rescaled():
    short, long = (sincos_positions(5, t, 32).view(5, t, 32) for t in (10, 50))
    torch.testing.assert_close(long[:, :10], short)


def test_the_first_half_of_a_position_encodes_time_the_second_frequency():
    grid = sincos_positions(5, 10, 32).view(5, 10, 32)
    assert torch.equal(grid[0, :, :16], grid[4, :, :16])
    assert torch.equal(grid[:, 0, 16:], grid[:, 9, 16:])
    assert not torch.equal(grid[0, 0, :16], grid[0, 1, :16])
    assert not torch.equal(grid[0, 0, 16:], grid[1, 0, 16:])


def test_the_order_in_time_matters(encoder):
    mel = torch.randn(1, 80, 64)
    pooled = encoder(mel).mean((1, 2))
    assert not torch.allclose(encoder(mel.flip(-1)).mean((1, 2)), pooled, atol=1e-4)


def test_plain_attention_equals_the_library():
    query, key, value = torch.randn(3, 2, 4, 9, 8)
    torch.testing.assert_close(
        plain_attention(query, key, value), F.scaled_dot_product_attention(query, key, value)
    )


def test_the_last_layer_is_the_output_and_the_first_has_seen_no_other_patch(encoder):
    mel, other = torch.randn(2, 1, 80, 64)
    other[..., :16] = mel[..., :16]
    found = encoder.layer_patches(mel, [2, 0, 1])
    torch.testing.assert_close(found[2], encoder(mel))
    assert {layer: patches.shape for layer, patches in found.items()} == dict.fromkeys(
        [2, 0, 1], (1, 5, 4, 32)
    )
    changed = encoder.layer_patches(other, [0, 1])
    torch.testing.assert_close(changed[0][:, :, 0], found[0][:, :, 0])
    assert not torch.allclose(changed[1][:, :, 0], found[1][:, :, 0])
    with pytest.raises(ValueError, match="layer 3: expected 0 to 2"):
        encoder.layer_patches(mel, [3])


def test_vit_base_has_the_parameters_of_vit_base():
    with torch.device("meta"):
        encoder = ViTEncoder(ViTConfig())
    assert sum(p.numel() for p in encoder.parameters()) == 85_054_464 + 16 * 16 * 768 + 768 + 1536


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="heads=5"):
        ViTConfig(dim=32, heads=5)
    with pytest.raises(ValueError, match="mel_bins=81"):
        ViTConfig(mel_bins=81)


def test_xavier_bounds_each_linear_map_by_its_shape():
    torch.manual_seed(0)
    encoder = ViTEncoder(ViTConfig(dim=32, layers=1, heads=4, is_xavier=True))
    for module in encoder.modules():
        if isinstance(module, torch.nn.Linear):
            bound = (6 / (module.in_features + module.out_features)) ** 0.5
            assert 0.95 * bound < module.weight.abs().max() <= bound
            assert not module.bias.any()
