"""``stems compare``: two models on the same queries."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ml.cli.embed import CONDITIONINGS
from ml.settings import Settings

if TYPE_CHECKING:
    from ml.reports.trained import TrainedModel
    from ml.retrieval.evaluation.compare import Comparison, CorpusComparison, MetricDifference


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "compare",
        help="whether one model is better than another, and how they differ",
        description="Compare two models on the same queries: differences with 95 % intervals "
        "(bootstrap over tracks) and p-values (A and B exchanged track by track), by instrument, "
        "configuration, loss curves. A model is a name (film), a checkpoint folder, a model_id, an "
        "MLflow run id, models:/NAME@ALIAS or models:/NAME/VERSION.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("a", metavar="A", help="a model")
    parser.add_argument("b", metavar="B", help="another model")
    parser.add_argument(
        "--corpus",
        nargs="+",
        metavar="NAME",
        help="on which corpora (default: all that both have embedded)",
    )
    parser.add_argument("--conditioning", choices=CONDITIONINGS, default="fine")
    parser.add_argument("--resamples", type=int, help="of the bootstrap (default: settings)")
    parser.add_argument("--permutations", type=int, default=10_000, help="exchanges for p-values")
    parser.add_argument("--seed", type=int, help="of the draws (default: settings)")
    parser.add_argument("--json", action="store_true", help="print JSON, curves included")
    parser.add_argument("--html", type=Path, metavar="OUT", help="also write one HTML page here")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Compare and print."""
    from ml.artifacts import write_aside
    from ml.reports.comparison import compared_runs, comparison_page, comparison_values
    from ml.reports.report import TRACKING_URL
    from ml.retrieval.evaluation.compare import ComparisonConfig, compare_models
    from ml.training.models import find_model

    chosen, layout = settings.evaluation, settings.layout
    a, b = (find_model(layout, text, settings.tracking_uri) for text in (args.a, args.b))
    comparison = compare_models(
        layout,
        a,
        b,
        corpora=args.corpus,
        config=ComparisonConfig(
            conditioning=args.conditioning,
            resamples=chosen.bootstrap_resamples if args.resamples is None else args.resamples,
            permutations=args.permutations,
            seed=chosen.seed if args.seed is None else args.seed,
        ),
    )
    if args.json:
        print(json.dumps(comparison_values(layout, comparison), indent=1, allow_nan=False))
    else:
        print("\n".join(text_lines(comparison, compared_runs(layout, comparison))))
    if args.html is not None:
        uri = settings.tracking.uri or ""
        url = uri if uri.startswith(("http://", "https://")) else TRACKING_URL
        page = comparison_page(layout, comparison, url)
        with write_aside(args.html) as aside:
            aside.write_text(page, encoding="utf-8")
        if not args.json:
            print(f"\n{args.html} is written")
    return 0


def text_lines(comparison: Comparison, runs: list[TrainedModel]) -> Iterator[str]:
    """The comparison as text."""
    for letter, model in (("A", comparison.a), ("B", comparison.b)):
        run = f", MLflow run {model.mlflow_run_id}" if model.mlflow_run_id else ""
        yield f"{letter}: {model.name} ({model.model_id}{run})"
    for found in comparison.corpora:
        yield ""
        yield from _corpus_lines(found)
    yield ""
    if comparison.config:
        width = max(len(key) for key in comparison.config)
        yield "configuration, where they differ (A | B)"
        for key, (a, b) in comparison.config.items():
            yield f"  {key:{width}}  {_plain(a)} | {_plain(b)}"
    else:
        yield "they are configured alike"
    yield from _curve_lines(runs)


def _corpus_lines(found: CorpusComparison) -> Iterator[str]:
    seen = f", {found.n_seen} of tracks seen in training left out" if found.n_seen else ""
    yield f"{found.corpus}: {found.n_queries} queries, {found.n_gallery} stems, percent{seen}"
    yield f"{'':30}{'A':>8}{'B':>8}{'A minus B':>12}{'95 % interval':>18}{'p':>9}"
    for row in found.metrics:
        p = "" if row.p is None else f"{row.p:.4f}"
        yield f"  {row.metric:28}{_figures(row)}{p:>9}"
    yield "  by instrument, mean normalised rank (lower is better), where A is ahead first"
    for label, rows in found.instruments.items():
        name = f"{label} ({rows[-1].n_queries})"
        yield f"  {name:28}{_figures(rows[-1])}"


def _figures(row: MetricDifference) -> str:
    found = row.difference
    # A single track has no interval: NaN is not equal to itself.
    interval = f"{found.low:+.1f}…{found.high:+.1f}" if found.low == found.low else ""
    return f"{row.a:8.1f}{row.b:8.1f}{found.value:+12.1f}{interval:>18}"


def _curve_lines(runs: list[TrainedModel]) -> Iterator[str]:
    """Where the curves of each model end, side by side."""
    metrics = list(dict.fromkeys(metric for run in runs for metric in run.curves))
    if not metrics:
        return
    yield ""
    yield f"{'last values of the curves':30}" + "".join(f"{run.name:>26}" for run in runs)
    for metric in metrics:
        for is_valid, split in ((False, "train"), (True, "valid")):
            ends = [_end(run, metric, is_valid=is_valid) for run in runs]
            if any(ends):
                yield f"  {f'{metric}, {split}':28}" + "".join(f"{end:>26}" for end in ends)


def _end(run: TrainedModel, metric: str, *, is_valid: bool) -> str:
    for curve in run.curves.get(metric, ()):
        if curve.is_valid == is_valid:
            return f"{curve.values[-1]:.4g} at step {curve.steps[-1]:.0f}"
    return ""


def _plain(value: object) -> str:
    return "none" if value is None else str(value)
