"""``stems scores``: the latest scores of every evaluation."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ml.settings import Settings

_HEADINGS = {
    "recall@1": "R@1",
    "recall@5": "R@5",
    "recall@10": "R@10",
    "normalized_rank_mean": "NR mean",
    "normalized_rank_median": "NR median",
    "right_instrument": "instrument",
    "right_song": "song",
}


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
    """Models as rows, metrics as columns, the interval below each figure, chance last."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells = {(row["model"], row["metric"]): row for row in rows}
    queries = max(row["n_queries"] for row in rows)
    body = [["", *(_HEADINGS.get(metric, metric) for metric in metrics)]]
    for model in models:
        found = [cells.get((model, metric)) for metric in metrics]
        body.append([model, *("" if row is None else f"{row['value']:.1f}" for row in found)])
        body.append(["", *(_interval(row) for row in found)])
    if not all(row["evaluation"].endswith("-paired") for row in rows):
        chance = [cells.get((models[0], metric)) for metric in metrics]
        body.append(["chance", *("" if row is None else f"{row['chance']:.1f}" for row in chance)])
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in body
    ]
    heading = f"{title}, {queries} queries, {rows[0]['n_gallery']} stems, percent"
    return [heading, *(line for line in lines if line)]


def _interval(row: dict[str, Any] | None) -> str:
    if row is None or row["low"] is None:
        return ""
    return f"{row['low']:.1f}…{row['high']:.1f}"
