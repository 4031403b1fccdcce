from __future__ import annotations

from typing import Any

import pytest

from ml.cli.evaluate import offset_lines, presence_lines, share_lines
from ml.retrieval.evaluation.instruments import SHARES


def score(metric: str, value: float, low: float | None) -> dict[str, Any]:
    named = {"model": "film", "conditioning": "fine", "metric": metric, "n_queries": 18}
    high = None if low is None else 40.0
    return {**named, "value": value, "low": low, "high": high, "chance": 3.3}


def row(model: str, presence: str, right: float) -> dict[str, Any]:
    named = {"model": model, "instrument": "ukulele", "queries": 6, "presence": presence}
    near = {"nearest_training_label": "guitar", "similarity": 0.456}
    return {**named, **near, **dict.fromkeys(SHARES, 0.0), "right_stem": right}


def test_presence_groups_have_figures_intervals_and_chance() -> None:
    rows = [
        score(f"{metric}/zero-shot", 12.34, 5.0 if metric == "recall@1" else None)
        for metric in ("recall@1", "recall@10", "normalized_rank_mean")
    ]
    # another metric of recall@1, whose chance is another
    rows.append(score("recall@1/or-same-label", 20.0, None) | {"chance": 9.9})
    lines = [line.split() for line in presence_lines(rows)]
    assert lines[1:] == [
        ["film,", "fine"],
        ["zero-shot", "18", "12.3", "(5.0…40.0)", "12.3", "12.3"],
        ["chance", "3.3", "3.3", "3.3"],
    ]


def test_shares_are_those_of_the_best_or_the_named_model() -> None:
    rows = [row("film", "zero-shot", 50.0), row("spectrum", "same-text", 25.0)]
    shown = list(share_lines(rows, None))
    assert shown[0].startswith("film: ")
    assert shown[-1].split()[:3] == ["ukulele", "6", "50"]
    assert shown[-1].endswith("zero-shot (nearest: guitar 0.46)")
    assert list(share_lines(rows, "spectrum"))[-1].endswith("same-text")
    with pytest.raises(ValueError, match="'class' was not analysed; expected one of: film, spec"):
        list(share_lines(rows, "class"))
    assert "no query" in next(share_lines([], None))


def test_alignment_is_printed_by_distance() -> None:
    rows = [
        {"model": model, "offset_s": offset_s, "value": value}
        for model, offset_s, value in (("a", -4.0, 51.0), ("a", 0.0, 30.04), ("b", 0.0, 50.0))
    ]
    assert [line.split() for line in offset_lines(rows)][1:] == [
        ["seconds", "a", "b"],
        ["-4", "51.0"],
        ["0", "30.0", "50.0"],
    ]
