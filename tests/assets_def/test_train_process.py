import logging
from collections.abc import Iterator

import pytest

from assets_def import train_process
from assets_def.train_process import ProgressHandler


class Clock:
    """A training that logs a line every ten seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now_s = 1000.0
        monkeypatch.setattr(train_process.time, "monotonic", lambda: self.now_s)

    def said(self, lines: int) -> list[str]:
        """The lines that reach Dagster."""
        said: list[str] = []
        handler = ProgressHandler(said.append)
        for number in range(lines):
            handler.handle(logging.makeLogRecord({"msg": "line %d", "args": (number,)}))
            self.now_s += 10
        return said


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    with monkeypatch.context() as patched:
        yield Clock(patched)


def test_the_first_line_is_said_and_then_one_every_15_s_or_more(clock: Clock):
    assert clock.said(6) == ["line 0", "line 2", "line 4"]


def test_a_training_of_days_says_some_hundred_lines(clock: Clock):
    ten_days = 10 * 8640
    assert 300 < len(clock.said(ten_days)) < 1000
