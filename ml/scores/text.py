"""Scores as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ml.scores.published import PUBLISHED

_HEADINGS = {
    "recall@1": "R@1",
    "recall@5": "R@5",
    "recall@10": "R@10",
    "normalized_rank_mean": "NR mean",
    "normalized_rank_median": "NR median",
    "right_instrument": "instrument",
    "right_song": "song",
    "f_measure": "F",
    "cmlt": "CMLt",
    "amlt": "AMLt",
    "peak_f_measure": "peak F",
    "peak_cmlt": "peak CMLt",
    "peak_amlt": "peak AMLt",
    "average_precision": "frame AP",
}


_WIDEST = 8
"""Metrics that fit beside each other on a terminal."""


def table_lines(title: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Models as rows, metrics as columns, the interval below each figure, chance last.

    More metrics than fit beside each other become rows, and models columns.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells = {(row["model"], row["metric"]): row for row in rows}
    measured = [row for row in rows if row["evaluation"] != PUBLISHED] or rows
    queries = max(row["n_queries"] for row in measured)
    is_paired = all(row["evaluation"].endswith("-paired") for row in rows)
    chances = [] if is_paired else [f"{_chance(metric, rows):.1f}" for metric in metrics]
    layout = _by_metric if len(metrics) > _WIDEST else _by_model
    body = layout(metrics, models, cells, chances)
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in body
    ]
    counted = f"{queries} queries, {rows[0]['n_gallery']} stems"
    if rows[0]["evaluation"].startswith("beats"):
        counted = f"{queries} tracks"
    heading = f"{title}, {counted}, percent"
    return [heading, *(line for line in lines if line)]


_Cells = dict[tuple[str, str], dict[str, Any]]


def _by_model(
    metrics: list[str], models: list[str], cells: _Cells, chances: list[str]
) -> list[list[str]]:
    body = [["", *(_HEADINGS.get(metric, metric) for metric in metrics)]]
    for model in models:
        found = [cells.get((model, metric)) for metric in metrics]
        body.append([model, *map(_value, found)])
        body.append(["", *map(_interval, found)])
    return [*body, ["chance", *chances]] if chances else body


def _by_metric(
    metrics: list[str], models: list[str], cells: _Cells, chances: list[str]
) -> list[list[str]]:
    beside = chances or [""] * len(metrics)
    body = [["", *models, "chance" if chances else ""]]
    for metric, chance in zip(metrics, beside, strict=True):
        found = [cells.get((model, metric)) for model in models]
        body.append([_HEADINGS.get(metric, metric), *map(_value, found), chance])
        body.append(["", *map(_interval, found), ""])
    return body


def _chance(metric: str, rows: Sequence[dict[str, Any]]) -> float:
    return next(row["chance"] for row in rows if row["metric"] == metric)


def _value(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['value']:.1f}"


def _interval(row: dict[str, Any] | None) -> str:
    if row is None or row["low"] is None:
        return ""
    return f"{row['low']:.1f}…{row['high']:.1f}"
