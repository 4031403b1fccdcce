"""``stems scores``: the latest scores of every evaluation."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ml.retrieval.published import PUBLISHED
from ml.settings import Settings

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


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "scores",
        help="print the latest scores of every evaluation",
        description="Print the latest scores in percent: recall (higher is better), normalised "
        "rank (lower is better), and how often the nearest stem has the right instrument or is of "
        "the right song; 95 % intervals below, chance in the last row.",
    )
    parser.add_argument("--corpus", metavar="NAME", help="only this corpus")
    parser.add_argument("--json", action="store_true", help="print a JSON list, one figure each")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print them."""
    from ml.retrieval.score_files import read_scores

    scores = read_scores(settings.layout, corpus=args.corpus)
    if args.json:
        print(json.dumps(scores, indent=1, allow_nan=False))
        return 0
    if not scores:
        of = f" of {args.corpus}" if args.corpus else ""
        print(f"there are no scores{of} yet; make some with: stems evaluate retrieval --corpus C")
        return 0
    print_scores(scores)
    return 0


def print_scores(scores: Sequence[dict[str, Any]]) -> None:
    """Print one table per evaluation, corpus and conditioning."""

    def table_of(row: dict[str, Any]) -> tuple[str, str, str]:
        return row["corpus"], row["conditioning"], row["evaluation"]

    for (corpus, conditioning, evaluation), group in groupby(
        sorted(scores, key=table_of), key=table_of
    ):
        print("\n".join(table_lines(f"{evaluation}: {corpus}, {conditioning}", list(group))))
        print()


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
