"""Schedules by hand."""

import math

import pytest

from ml.training.config import linear, warmup_cosine


def test_warm_up_then_half_a_cosine():
    def rate(step):
        return warmup_cosine(step, steps=110, warmup_steps=10, peak=2.0)

    assert [rate(0), rate(4), rate(9)] == pytest.approx([0.2, 1.0, 2.0])
    assert rate(10) == pytest.approx(2.0)
    assert rate(60) == pytest.approx(1.0)
    assert rate(35) == pytest.approx(1 + math.cos(math.pi / 4))
    assert rate(110) == pytest.approx(0.0)


def test_the_rate_never_rises_after_the_warm_up():
    rates = [warmup_cosine(s, steps=50, warmup_steps=5, peak=1.0) for s in range(50)]
    assert rates[:6] == sorted(rates[:6])
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_the_ema_rate_is_linear_between_its_ends():
    rates = [linear(s, steps=5, start=0.9, end=0.98) for s in range(5)]
    assert rates == pytest.approx([0.9, 0.92, 0.94, 0.96, 0.98])
