"""The losses against slow oracles and hand-worked cases."""

import math

import pytest
import torch

from ml.models.losses import conditioned_nce, jepa_loss, nt_xent


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def slow_nt_xent(context, target, temperature, tracks=None):
    rows = [*context, *target]
    batch = len(context)
    total = 0.0
    for i in range(2 * batch):
        positive = (i + batch) % (2 * batch)
        terms = []
        for j in range(2 * batch):
            is_same_track = tracks is not None and tracks[i % batch] == tracks[j % batch]
            if j == i or (is_same_track and j != positive):
                continue
            terms.append(math.exp(cosine(rows[i], rows[j]) / temperature))
        total -= math.log(math.exp(cosine(rows[i], rows[positive]) / temperature) / sum(terms))
    return total / (2 * batch)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nt_xent_equals_the_slow_oracle(temperature):
    torch.manual_seed(0)
    context, target = torch.randn(2, 7, 5)
    expected = slow_nt_xent(context, target, temperature)
    assert nt_xent(context, target, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_nt_xent_leaves_pairs_of_the_same_track_out():
    torch.manual_seed(1)
    context, target = torch.randn(2, 6, 5)
    tracks = torch.tensor([0, 1, 0, 2, 1, 3])
    expected = slow_nt_xent(context, target, 0.2, tracks.tolist())
    assert nt_xent(context, target, 0.2, tracks).item() == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(slow_nt_xent(context, target, 0.2), rel=1e-3)


def test_nt_xent_of_equal_rows_is_the_chance_loss():
    rows = torch.ones(8, 4)
    assert nt_xent(rows, rows, 0.3).item() == pytest.approx(math.log(2 * 8 - 1), rel=1e-6)


def test_nt_xent_ignores_the_norm_and_learns_the_temperature():
    torch.manual_seed(2)
    context, target = torch.randn(2, 4, 3)
    temperature = torch.tensor(0.4, requires_grad=True)
    loss = nt_xent(3 * context, target / 5, temperature)
    assert loss.item() == pytest.approx(nt_xent(context, target, 0.4).item(), rel=1e-5)
    loss.backward()
    assert temperature.grad is not None
    assert temperature.grad.abs() > 0


def test_jepa_loss_by_hand():
    prediction = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, -3.0]]])
    target = torch.tensor([[[5.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    # Cosines 1, 0 and -1: distances 0, 2 and 4.
    assert jepa_loss(prediction, target).item() == pytest.approx(2.0)


def test_jepa_loss_is_the_squared_distance_of_unit_patches():
    torch.manual_seed(3)
    prediction, target = torch.randn(2, 2, 5, 6)
    unit = [x / x.norm(dim=-1, keepdim=True) for x in (prediction, target)]
    expected = (unit[0] - unit[1]).square().sum(-1).mean()
    torch.testing.assert_close(jepa_loss(prediction, target), expected)


def test_standardised_targets_forget_their_mean_and_scale():
    torch.manual_seed(4)
    prediction, target = torch.randn(2, 2, 5, 6)
    moved = 7 * target + 3
    torch.testing.assert_close(
        jepa_loss(prediction, moved, standardise_target=True),
        jepa_loss(prediction, target, standardise_target=True),
        rtol=1e-4,
        atol=1e-5,
    )


def test_conditioned_nce_equals_the_symmetric_oracle():
    torch.manual_seed(5)
    query, target = torch.randn(2, 5, 4)
    total = 0.0
    for rows, columns in ((query, target), (target, query)):
        for i in range(5):
            terms = [math.exp(cosine(rows[i], columns[j]) / 0.1) for j in range(5)]
            total -= math.log(terms[i] / sum(terms))
    assert conditioned_nce(query, target, 0.1).item() == pytest.approx(total / 10, rel=1e-5)


def test_a_stem_of_the_same_track_and_label_is_no_negative():
    query = torch.eye(3)
    target = torch.stack([torch.eye(3)[0], torch.eye(3)[0], torch.eye(3)[2]])
    tracks, labels = torch.tensor([4, 4, 5]), torch.tensor([1, 1, 1])
    masked = conditioned_nce(query[[0, 0, 2]], target, 0.1, tracks, labels)
    assert masked < 1e-3
    assert conditioned_nce(query[[0, 0, 2]], target, 0.1) > 0.4
