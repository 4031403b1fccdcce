"""How far a training is, as lines of Dagster's log, while it trains."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml.training.record import RECORD_NAME
from ml.training.tracking import RunStatus, RunTracker

SAY_EVERY_S = 15.0
SAY_EVERY_SHARE = 0.01
"""A training of days says something a hundred times, not every 15 s."""
_TAIL_BYTES = 16_384
"""Holds the last lines of a record: one has about a kilobyte."""


class ProgressTracker:
    """Does what another tracker does, and says how far the run is.

    Args:
        tracker: the other one.
        folder: of the run.
        say: gets a line when it begins, then at most every ``SAY_EVERY_S`` and
            ``SAY_EVERY_SHARE`` of the steps, and one for the last step.
    """

    def __init__(self, tracker: RunTracker, folder: Path, say: Callable[[str], None]) -> None:
        self._tracker, self._record, self._say = tracker, folder / RECORD_NAME, say
        self._steps = self._said_step = 0
        self._said_s = time.monotonic()

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """The run begins or goes on."""
        self._steps = params["steps"]
        done = (last_line(self._record) or {"step": 0})["step"]
        self._said_step = done
        begun = f"goes on after step {done}" if done else "begins"
        self._say(f"{self._record.parent.name}: training {begun}, {self._steps} steps in all")
        self._tracker.start(params, tags)

    def ship(self) -> None:
        """Lines were added to the record."""
        self._tracker.ship()
        line = last_line(self._record)
        if line is not None and self._is_due(line["step"]):
            self._said_step, self._said_s = line["step"], time.monotonic()
            self._say(f"{self._record.parent.name}: {progress_text(line, self._steps)}")

    def finish(self, status: RunStatus = "FINISHED") -> str | None:
        """The run ended, well or not."""
        return self._tracker.finish(status)

    def _is_due(self, step: int) -> bool:
        if step == self._steps:
            return step != self._said_step
        is_far = step - self._said_step >= SAY_EVERY_SHARE * self._steps
        return is_far and time.monotonic() - self._said_s >= SAY_EVERY_S


def last_line(record: Path) -> dict[str, Any] | None:
    """The last line of ``metrics.jsonl`` that a training step wrote; None: there is none."""
    if not record.is_file():
        return None
    with record.open("rb") as file:
        file.seek(max(0, record.stat().st_size - _TAIL_BYTES))
        texts = file.read().splitlines()
    for text in reversed(texts):
        try:
            line = json.loads(text)
        except ValueError:  # half a line: the first of the tail, or the last of a killed process
            continue
        if "speed/steps_per_s" in line["metrics"]:
            return line
    return None


def progress_text(line: Mapping[str, Any], steps: int) -> str:
    """Step, share, loss, speed and time left of a line of the record."""
    step, metrics = line["step"], line["metrics"]
    losses = [value for name, value in metrics.items() if name.endswith("/loss")]
    per_s = metrics["speed/steps_per_s"]
    said = [f"step {step} of {steps} ({step / steps:.0%})"]
    said += [f"loss {loss:.4g}" for loss in losses]
    said += [f"{per_s:.3g} steps/s"]
    if per_s > 0 and step < steps:
        said += [f"{duration_text((steps - step) / per_s)} left"]
    return ", ".join(said)


def duration_text(seconds: float) -> str:
    """As ``3 d 4 h``, ``2 h 5 min``, ``3 min`` or ``40 s``."""
    minutes = round(seconds / 60)
    if minutes >= 24 * 60:
        return f"{minutes // 1440} d {minutes % 1440 // 60} h"
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes >= 2 else f"{seconds:.0f} s"
