"""What was found out: ``stems scores``, ``stems compare`` and ``stems report``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml import kinds
from ml.cli.options import add_conditioning, add_draws, draws, examples
from ml.settings import Settings

if TYPE_CHECKING:
    from ml.reports.trained import TrainedModel
    from ml.retrieval.evaluation.compare import Comparison, CorpusComparison, MetricDifference


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs ``scores``, ``compare`` and ``report``."""
    _add_scores(verbs)
    _add_compare(verbs)
    _add_report(verbs)


def _add_scores(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "scores",
        description="Print the main figures of the latest scores in percent: the target's place "
        "among the stems of its own label (0 is first, 50 is chance: is the mix heard?), recall "
        "(higher is better), normalised rank (lower is better), and beats, with 95 % intervals and "
        "chance. Row 'label' looks the asked label up and hears nothing.",
        epilog=examples("stems scores", "stems scores --corpus demo --all"),
    )
    parser.add_argument("--corpus", metavar="NAME", help="only this corpus")
    parser.add_argument("--all", action="store_true", help="every figure of every evaluation")
    parser.add_argument("--json", action="store_true", help="print a JSON list, one figure each")
    parser.set_defaults(run=run_scores)


def run_scores(args: argparse.Namespace, settings: Settings) -> int:
    """Print the latest scores."""
    from ml.scores.files import read_scores
    from ml.scores.text import glance_lines

    scores = read_scores(settings.layout, corpus=args.corpus)
    if args.corpus and not scores:
        settings.corpus(args.corpus)  # an unknown name is an error that lists the known ones
    if args.json:
        print(json.dumps(scores, indent=1, allow_nan=False))
        return 0
    if not scores:
        of = f" of {args.corpus}" if args.corpus else ""
        print(f"there are no scores{of} yet; make some with: stems evaluate retrieval --corpus C")
        return 0
    lines = glance_lines(scores)
    if args.all or not lines:
        print_scores(scores)
        return 0
    print("\n".join(lines))
    print(f"all figures: stems scores --all{f' --corpus {args.corpus}' if args.corpus else ''}")
    return 0


def print_scores(scores: Sequence[dict[str, Any]]) -> None:
    """Print one table per evaluation, corpus and conditioning."""
    from ml.scores.intervals import INTERVALS_SAID
    from ml.scores.text import swapped_notes, table_lines

    def table_of(row: dict[str, Any]) -> tuple[str, str, str]:
        return row["corpus"], row["conditioning"], row["evaluation"]

    for (corpus, conditioning, evaluation), group in groupby(
        sorted(scores, key=table_of), key=table_of
    ):
        same = [row for row in scores if table_of(row)[:2] == (corpus, conditioning)]
        lines = table_lines(f"{evaluation}: {corpus}, {conditioning}", list(group))
        print("\n".join([*lines, *swapped_notes(same, evaluation)]))
        print()
    print(INTERVALS_SAID)


def _add_compare(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "compare",
        description="Compare two models on the same queries: differences with 95 % intervals "
        "(bootstrap over tracks) and p-values (A and B exchanged track by track), by instrument, "
        "configuration, loss curves. A model is a name (film), a checkpoint folder, a model_id, an "
        "MLflow run id, models:/NAME@ALIAS or models:/NAME/VERSION.",
        epilog=examples(
            "stems compare film two-part", "stems compare film two-part --corpus demo --html x.html"
        ),
    )
    parser.add_argument("a", metavar="A", help="a model")
    parser.add_argument("b", metavar="B", help="another model")
    parser.add_argument(
        "--corpus",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="on which corpora (default: all that both have embedded)",
    )
    add_conditioning(parser)
    add_draws(parser, "of the draws")
    parser.add_argument("--permutations", type=int, default=10_000, help="exchanges for p-values")
    parser.add_argument("--json", action="store_true", help="print JSON, curves included")
    parser.add_argument("--html", type=Path, metavar="OUT", help="also write one HTML page here")
    parser.set_defaults(run=run_compare)


def run_compare(args: argparse.Namespace, settings: Settings) -> int:
    """Compare two models and print the differences."""
    from ml.artifacts import write_aside
    from ml.mlflow_store import pages_url
    from ml.reports.comparison import compared_runs, comparison_page, comparison_values
    from ml.retrieval.evaluation.compare import ComparisonConfig, compare_models
    from ml.training.models import find_model

    layout = settings.layout
    a, b = (find_model(layout, text, settings.tracking_uri) for text in (args.a, args.b))
    comparison = compare_models(
        layout,
        a,
        b,
        corpora=args.corpus,
        config=ComparisonConfig(
            conditioning=args.conditioning,
            permutations=args.permutations,
            **draws(args, settings),
        ),
    )
    if args.json:
        print(json.dumps(comparison_values(layout, comparison), indent=1, allow_nan=False))
    else:
        print("\n".join(text_lines(comparison, compared_runs(layout, comparison))))
    if args.html is not None:
        page = comparison_page(layout, comparison, pages_url(settings.tracking_uri))
        with write_aside(args.html) as aside:
            aside.write_text(page, encoding="utf-8")
        if not args.json:
            print(f"\n{args.html} is written")
    return 0


def text_lines(comparison: Comparison, runs: list[TrainedModel]) -> Iterator[str]:
    """Say a comparison as text."""
    for letter, model in (("A", comparison.a), ("B", comparison.b)):
        run = f", MLflow run {model.mlflow_run_id}" if model.mlflow_run_id else ""
        yield f"{letter}: {model.name} ({model.model_id}{run})"
    for corpus in comparison.corpora:
        yield ""
        yield from _corpus_lines(corpus)
    yield ""
    if comparison.config:
        width = max(len(key) for key in comparison.config)
        yield "configuration, where they differ (A | B)"
        for key, (a, b) in comparison.config.items():
            yield f"  {key:{width}}  {_plain(a)} | {_plain(b)}"
    else:
        yield "they are configured alike"
    yield from _curve_lines(runs)


def _corpus_lines(scores: CorpusComparison) -> Iterator[str]:
    seen = f", {scores.n_seen} of tracks seen in training left out" if scores.n_seen else ""
    yield f"{scores.corpus}: {scores.n_queries} queries, {scores.n_gallery} stems, percent{seen}"
    yield f"{'':30}{'A':>8}{'B':>8}{'A minus B':>12}{'95 % interval':>18}{'p':>9}"
    for row in scores.metrics:
        p = "" if row.p is None else f"{row.p:.4f}"
        yield f"  {row.metric:28}{_figures(row)}{p:>9}"
    yield "  by instrument, mean normalised rank (lower is better), where A is ahead first"
    for label, rows in scores.instruments.items():
        name = f"{label} ({rows[-1].n_queries})"
        yield f"  {name:28}{_figures(rows[-1])}"


def _figures(row: MetricDifference) -> str:
    difference = row.difference
    # A single track has no interval: NaN is not equal to itself.
    interval = (
        f"{difference.low:+.1f}…{difference.high:+.1f}" if difference.low == difference.low else ""
    )
    return f"{row.a:8.1f}{row.b:8.1f}{difference.value:+12.1f}{interval:>18}"


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


def _add_report(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "report",
        description="Write one self-contained HTML page: what was trained on what, loss curves, "
        "scores with intervals, figures, and sample queries to listen to. Reused when nothing "
        "has changed.",
        epilog=examples("stems report", "stems report --samples-of demo"),
    )
    parser.add_argument(
        "--title", default="Stem retrieval report", help="title of the page (default: %(default)s)"
    )
    parser.add_argument(
        "--samples-of",
        metavar="CORPUS",
        help="corpus whose sample queries can be listened to (default: all with scores)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=10,
        metavar="N",
        help="number of sample queries, shared by the corpora (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Write the report, and say what it lacks."""
    from ml.artifacts import read_manifest
    from ml.mlflow_store import pages_url
    from ml.reports.report import PAGE_NAME, build_report

    if args.samples < 0:
        raise ValueError(f"--samples is {args.samples}; expected 0 or more")
    artifact = build_report(
        settings.layout,
        title=args.title,
        tracking_url=pages_url(settings.tracking_uri),
        samples_of=args.samples_of,
        n_samples=args.samples,
    )
    state = "is up to date" if artifact.reused else "is written"
    print(f"{artifact.path / PAGE_NAME} {state} ({artifact.summary['megabytes']} MB)")
    manifest = read_manifest(artifact.path, kinds.REPORT)
    for sentence in manifest["missing"]:
        print(f"  {sentence}")
    return 0
