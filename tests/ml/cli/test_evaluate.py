from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ml.artifacts import DataLayout
from ml.cli.main import main
from ml.scores.files import SCORE_COLUMNS, read_scores


def evaluate(home: Path, *options: str) -> int:
    command = ["--home", str(home), "evaluate", "retrieval", "--corpus", "demo-plain"]
    return main([*command, "--precision", "fp32", "--resamples", "50", *options])


def figures(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(row["evaluation"], row["model"]) for row in rows}


def test_one_model_beside_what_needs_no_learning_by_both_protocols(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ("--model", "film", "--baselines", "--protocol", "both")
    assert evaluate(home, *chosen, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(list(row) == list(SCORE_COLUMNS) for row in rows)
    default = {(e, m) for e, m in figures(rows) if e == "retrieval"}
    assert default == {("retrieval", name) for name in ("film", "untrained", "spectrum", "label")}
    predecessor = {m for e, m in figures(rows) if e == "retrieval-predecessor"}
    assert predecessor == {"film", "film (encoder gallery)", "untrained", "label"}
    assert sorted(map(json.dumps, read_scores(DataLayout(home=home)))) == sorted(
        map(json.dumps, rows)
    )

    assert evaluate(home, *chosen) == 0  # again: nothing to do, and the same figures as a table
    printed = capsys.readouterr().out
    assert printed.count("is up to date") == 3 + 2
    assert "retrieval-predecessor: demo-plain, fine" in printed
    assert "film (encoder gallery)" in printed
    assert "published" not in printed  # the corpus is neither MUSDB18 nor MoisesDB


def test_what_was_trained_on_is_marked_as_seen(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--home", str(home), "evaluate", "retrieval", "--corpus", "demo"]
    options = ["--models", "film", "--splits", "train", "--resamples", "50"]
    assert main([*command, *options]) == 0
    printed = capsys.readouterr().out
    assert "every track was seen in training" in printed
    assert "retrieval-seen: demo, fine" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "nobody"], "nobody"),
        (["--models", "spectrum", "--protocol", "predecessor"], "trained encoders"),
        (["--resamples", "0"], "resamples=0"),
    ],
)
def test_wrong_use_is_one_sentence(
    home: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert evaluate(home, *options) == 2
    assert message in capsys.readouterr().err
