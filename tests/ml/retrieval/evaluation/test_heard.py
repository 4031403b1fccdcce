from __future__ import annotations

import math

import pytest

from ml.retrieval.evaluation.compare import MixHeard
from ml.scores.intervals import Interval


def heard(high: float) -> MixHeard:
    interval = Interval(value=40.0, low=30.0, high=high)
    return MixHeard(corpus="songs", n_queries=7, interval=interval)


def test_an_interval_that_reaches_chance_is_deaf() -> None:
    for high, is_deaf in ((49.9, False), (50.0, True), (70.0, True)):
        assert (heard(high).is_known, heard(high).is_deaf) == (True, is_deaf)
    figures = "within_label_rank on songs is 40.0 (7 queries), its 95 % interval"
    assert heard(49.9).text == f"{figures} 30.0…49.9 lies below 50"
    assert heard(50.0).text == f"{figures} 30.0…50.0 reaches 50 (chance): the mix is not heard"


@pytest.mark.parametrize("interval", [None, Interval(value=90.0, low=math.nan, high=math.nan)])
def test_without_an_interval_nothing_is_said(interval: Interval | None) -> None:
    found = MixHeard(corpus="songs", n_queries=0, interval=interval)
    assert (found.is_known, found.is_deaf) == (False, False)
    assert "whether the mix is heard cannot be said" in found.text
