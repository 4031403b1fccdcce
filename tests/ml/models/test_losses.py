"""The losses against slow oracles and hand-worked cases."""

import math

import pytest
import torch

from ml.models.losses import conditioned_nce, jepa_loss, nt_xent, pooled_loss


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


def test_further_negatives_of_nt_xent_are_terms_of_their_context_alone():
    torch.manual_seed(1)
    (context, target), negatives = torch.randn(2, 6, 5), torch.randn(6, 2, 5)
    is_negative = torch.tensor([[True, True], [True, False], *[[False, False]] * 4])
    plain = nt_xent(context, target, 0.2).item() * 12
    for i, j in is_negative.nonzero().tolist():
        rows = [*target, *context[:i], *context[i + 1 :], *negatives[i, :j]]
        before = sum(math.exp(cosine(context[i], row) / 0.2) for row in rows)
        plain += math.log(1 + math.exp(cosine(context[i], negatives[i, j]) / 0.2) / before)
    found = nt_xent(context, target, 0.2, negatives=negatives, is_negative=is_negative)
    assert found.item() * 12 == pytest.approx(plain, rel=1e-5)
    none = torch.zeros(6, 2, dtype=torch.bool)
    same = nt_xent(context, target, 0.2, negatives=negatives, is_negative=none)
    torch.testing.assert_close(same, nt_xent(context, target, 0.2))


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


def test_a_target_that_answers_too_is_no_negative():
    query = torch.eye(3)
    target = torch.stack([torch.eye(3)[0], torch.eye(3)[0], torch.eye(3)[2]])
    is_answer = torch.zeros(3, 3, dtype=torch.bool)
    is_answer[:2, :2] = True  # the diagonal stays a candidate
    masked = conditioned_nce(query[[0, 0, 2]], target, 0.1, is_answer)
    assert masked < 1e-3
    assert conditioned_nce(query[[0, 0, 2]], target, 0.1) > 0.4


def test_pooled_loss_by_hand():
    # Means of unit patches: (1, 1)/2 against (1, 0): cosine 1/√2. Norms of patches do not count.
    prediction = torch.tensor([[[4.0, 0.0], [0.0, 0.5]]])
    target = torch.tensor([[[2.0, 0.0], [3.0, 0.0]]])
    assert pooled_loss(prediction, target).item() == pytest.approx(2 - math.sqrt(2), rel=1e-6)
    assert pooled_loss(target, target).item() == pytest.approx(0.0, abs=1e-6)


def test_pooled_loss_is_content_with_the_mean():
    torch.manual_seed(6)
    target = torch.randn(3, 6, 5)
    shuffled = target[:, torch.randperm(6)]
    assert pooled_loss(shuffled, target).item() == pytest.approx(0.0, abs=1e-5)
    assert jepa_loss(shuffled, target) > 0.5


def test_further_negatives_stand_beside_the_targets_of_their_query_alone():
    torch.manual_seed(7)
    query, target, negatives = torch.randn(4, 6), torch.randn(4, 6), torch.randn(4, 2, 6)
    is_negative = torch.tensor([[True, True], [True, False], [False, False], [False, True]])
    total = 0.0
    for i in range(4):
        own = [negatives[i, j] for j in range(2) if is_negative[i, j]]
        for row, candidates in ((query[i], [*target, *own]), (target[i], [*query])):
            terms = [math.exp(cosine(row, other) / 0.2) for other in candidates]
            total -= math.log(terms[i] / sum(terms))
    found = conditioned_nce(query, target, 0.2, negatives=negatives, is_negative=is_negative)
    assert found.item() == pytest.approx(total / 8, rel=1e-5)


def test_no_further_negatives_are_as_none_at_all():
    torch.manual_seed(8)
    query, target, negatives = torch.randn(4, 6), torch.randn(4, 6), torch.zeros(4, 3, 6)
    none = torch.zeros(4, 3, dtype=torch.bool)
    found = conditioned_nce(query, target, 0.2, negatives=negatives, is_negative=none)
    torch.testing.assert_close(found, conditioned_nce(query, target, 0.2))


def test_a_step_down_moves_a_query_from_its_negative_to_its_target():
    query = torch.tensor([[1.0, 1.0, 0.0]], requires_grad=True)
    target, negative = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[[0.0, 1.0, 0.0]]])
    is_negative = torch.ones(1, 1, dtype=torch.bool)
    conditioned_nce(query, target, 0.1, negatives=negative, is_negative=is_negative).backward()
    assert query.grad is not None
    assert query.grad[0, 0] < 0 < query.grad[0, 1]
