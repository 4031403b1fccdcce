"""``python -m ml.benchmarks [AREA …]``: run the benchmarks, print one table, keep it as JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
from pathlib import Path

from ml.artifacts import write_aside
from ml.benchmarks.measure import Measure
from ml.plain import jsonable
from ml.processes import cores

AREAS = ("shards", "loader", "training", "beats", "embedding", "ranks", "search", "query")
"""Modules of this package with a function ``measure() -> Iterator[Measure]``; run by default."""
ON_REQUEST = ("gpu",)
"""Further ones."""


def get_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ml.benchmarks",
        description="Measure what things cost on this machine, beside named peers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    known = ", ".join(AREAS)
    parser.add_argument(
        "areas",
        nargs="*",
        metavar="AREA",
        help=f"of {known} (all of these by default) or {', '.join(ON_REQUEST)}",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON too")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the areas asked for, all by default."""
    parser = get_parser()
    args = parser.parse_args(argv)
    known = AREAS + ON_REQUEST
    if unknown := [area for area in args.areas if area not in known]:
        parser.error(f"area {unknown[0]!r} is unknown; expected of {', '.join(known)}")
    print(f"{platform.processor() or platform.machine()}, {cores()} cores")
    figures: list[Measure] = []
    for area in args.areas or AREAS:
        for figure in importlib.import_module(f"ml.benchmarks.{area}").measure():
            figures.append(figure)
            print(_line(figure), flush=True)
    if args.out:
        with write_aside(args.out) as aside:
            aside.write_text(json.dumps([jsonable(figure) for figure in figures], indent=1) + "\n")
    missed = [figure.name for figure in figures if figure.is_reached is False]
    print(f"{len(figures)} figures, {len(missed)} short of what was asked", *missed, sep="\n  ")
    return 0


def _line(figure: Measure) -> str:
    parts = [f"{figure.name}: {figure.value:,.4g} {figure.unit}"]
    if figure.asked is not None:
        sign = "at most" if figure.lower_is_better else "at least"
        verdict = "reached" if figure.is_reached else "MISSED"
        parts.append(f"asked {sign} {figure.asked:,.4g}: {verdict}")
    if figure.peer_value is not None:
        parts.append(f"{figure.ratio:.2f} x {figure.peer} ({figure.peer_value:,.4g})")
    return "; ".join(parts) + (f" [{figure.note}]" if figure.note else "")


if __name__ == "__main__":
    sys.exit(main())
