"""The moving average against the formula in float64."""

import torch
from torch import nn

from ml.training.jepa import ExponentialMovingAverage


def test_10k_steps_at_0_99999_equal_the_formula_in_float64():
    torch.manual_seed(0)
    target, source = nn.Linear(8, 8), nn.Linear(8, 8)
    expected = target.weight.detach().double().clone()
    ema = ExponentialMovingAverage(target)
    for step in range(10_000):
        if step % 100 == 0:
            with torch.no_grad():
                source.weight.add_(torch.randn(8, 8) * 0.01)
        ema.update(source, 0.99999)
        expected = 0.99999 * expected + (1 - 0.99999) * source.weight.detach().double()
    torch.testing.assert_close(target.weight.detach(), expected.float(), rtol=1e-6, atol=1e-7)


def test_float32_accumulation_would_lose_it():
    # Why there is a float64 master copy: the same sum in float32 is off by far more.
    mean, goal = torch.tensor(1.0), torch.tensor(1.001)
    exact = 1.0
    for _ in range(10_000):
        mean = torch.lerp(mean, goal, 1e-5)
        exact = exact + 1e-5 * (float(goal) - exact)
    assert abs(float(mean) - exact) > 0.2 * abs(exact - 1.0)


def test_state_continues_exactly():
    torch.manual_seed(0)
    source = nn.Linear(4, 4)
    straight, resumed = (nn.Linear(4, 4) for _ in range(2))
    resumed.load_state_dict(straight.state_dict())
    one = ExponentialMovingAverage(straight)
    for _ in range(6):
        one.update(source, 0.9)
    two = ExponentialMovingAverage(resumed)
    for _ in range(3):
        two.update(source, 0.9)
    saved = {"master": [m.clone() for m in two.state_dict()["master"]]}
    three = ExponentialMovingAverage(nn.Linear(4, 4))
    three.load_state_dict(saved)
    for _ in range(3):
        three.update(source, 0.9)
    for a, b in zip(one.state_dict()["master"], three.state_dict()["master"], strict=True):
        assert torch.equal(a, b)
