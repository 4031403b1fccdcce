"""``stems scores``: the latest scores of every evaluation."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ml.scores.text import table_lines
from ml.settings import Settings


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
    from ml.scores.files import read_scores

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
