import json
from pathlib import Path

import pytest

from assets_def import train_process as train_progress
from assets_def.train_process import ProgressTracker, duration_text, last_line, progress_text
from ml.training.tracking import NoTracker


def line(step: int, **metrics: float) -> dict[str, object]:
    return {"step": step, "time": 0.0, "metrics": {"speed/steps_per_s": 2.0, **metrics}}


def append(folder: Path, *texts: str):
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(f"{text}\n" for text in texts)


def test_lines_say_step_loss_speed_and_time_left():
    said = progress_text(line(50, **{"jepa/loss": 1.25, "jepa/valid_loss": 2.0}), 200)
    assert said == "step 50 of 200 (25%), loss 1.25, 2 steps/s, 75 s left"
    assert progress_text(line(200), 200) == "step 200 of 200 (100%), 2 steps/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(40, "40 s"), (180, "3 min"), (7500, "2 h 5 min"), (4 * 86400 + 3600, "4 d 1 h")],
)
def test_durations(seconds: float, text: str):
    assert duration_text(seconds) == text


def test_the_last_line_of_a_step_is_found_behind_validations_and_half_lines(tmp_path: Path):
    assert last_line(tmp_path / "metrics.jsonl") is None
    append(tmp_path, *(json.dumps(line(step)) for step in range(2000)))
    append(tmp_path, json.dumps({"step": 1999, "metrics": {"jepa/valid_loss": 1.0}}), '{"step": 2')
    found = last_line(tmp_path / "metrics.jsonl")
    assert found is not None
    assert found["step"] == 1999


def test_short_trainings_say_that_they_begin_and_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(train_progress, "SAY_EVERY_S", 3600.0)
    said = said_steps(tmp_path, steps=100)
    assert said == ["training begins, 100 steps in all", "step 100 of 100 (100%), 2 steps/s"]


def test_long_trainings_say_something_every_hundredth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(train_progress, "SAY_EVERY_S", 0.0)
    assert len(said_steps(tmp_path, steps=3000)) == 1 + 100


def test_a_resumed_training_says_where_it_goes_on(tmp_path: Path):
    append(tmp_path, json.dumps(line(30)))
    assert said_steps(tmp_path, steps=40)[0] == "training goes on after step 30, 40 steps in all"


def said_steps(folder: Path, *, steps: int) -> list[str]:
    said: list[str] = []
    tracker = ProgressTracker(NoTracker(), folder, said.append)
    tracker.start({"steps": steps}, {})
    for step in range(10, steps + 1, 10):
        append(folder, json.dumps(line(step)))
        tracker.ship()
    assert tracker.finish() is None
    return [text.removeprefix(f"{folder.name}: ") for text in said]
