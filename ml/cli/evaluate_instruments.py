"""``stems evaluate instruments``: what was found instead, by instrument, and zero-shot recall."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml.settings import Settings


def add_parser(evaluations: argparse._SubParsersAction) -> None:
    """Add the evaluation."""
    parser = evaluations.add_parser(
        "instruments",
        help="what was found instead, by instrument, and recall of labels unknown to training",
        description="From the retrieval scores of a corpus: recall by whether training met the "
        "label (same text, other words, not at all), what the nearest stem of each instrument's "
        "queries was (Fig. 2), and which category was found instead.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--corpus", required=True, metavar="NAME", help="name of the corpus")
    parser.add_argument(
        "--model", metavar="NAME", help="whose instruments to print (default: highest recall@1)"
    )
    parser.add_argument(
        "--other-words",
        type=float,
        default=0.75,
        metavar="COSINE",
        help="similarity from which a training label counts as the same in other words",
    )
    parser.add_argument("--resamples", type=int, help="of the bootstrap (default: settings)")
    parser.add_argument("--seed", type=int, help="of the bootstrap (default: settings)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Analyse, print recall by presence and the shares by instrument."""
    from ml.labels.encoders import label_encoder_of
    from ml.reports.tracked_instruments import track_instruments
    from ml.retrieval.evaluation.instruments import (
        EVALUATION,
        evaluate_instruments,
        read_instruments,
    )
    from ml.scores.files import read_scores

    chosen = settings.evaluation
    artifact = evaluate_instruments(
        args.corpus,
        settings.layout,
        label_encoder_of(settings),
        threshold=args.other_words,
        resamples=chosen.bootstrap_resamples if args.resamples is None else args.resamples,
        seed=chosen.seed if args.seed is None else args.seed,
    )
    track_instruments(settings.layout, args.corpus, artifact, settings.tracking_uri)
    print(f"{artifact.path} {'is up to date' if artifact.reused else 'is made'}\n")
    scores = read_scores(settings.layout, evaluation=EVALUATION, corpus=args.corpus)
    print("\n".join(presence_lines(scores)))
    rows = read_instruments(settings.layout, args.corpus)
    print("\n" + "\n".join(share_lines(rows, args.model)))
    return 0


def presence_lines(scores: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Recall@1, recall@10 and mean normalised rank of each model by presence group."""
    from ml.retrieval.evaluation.presence import PRESENCES

    cells = {(row["conditioning"], row["model"], row["metric"]): row for row in scores}
    yield f"{'':28}{'queries':>8}{'R@1':>20}{'R@10':>20}{'NR mean':>20}"
    for conditioning, model in dict.fromkeys((r["conditioning"], r["model"]) for r in scores):
        yield f"{model}, {conditioning}"
        for group in PRESENCES:
            metrics = ("recall@1", "recall@10", "normalized_rank_mean")
            found = [cells.get((conditioning, model, f"{metric}/{group}")) for metric in metrics]
            if found[0] is not None:
                figures = "".join(f"{_figure(row):>20}" for row in found)
                yield f"  {group:26}{found[0]['n_queries']:>8}{figures}"
    by_group = [row for row in scores if row["metric"].partition("/")[2] in PRESENCES]
    chance = {row["metric"].partition("/")[0]: row["chance"] for row in by_group}
    figures = (chance["recall@1"], chance["recall@10"], chance["normalized_rank_mean"])
    yield f"{'chance':36}" + "".join(f"{figure:>20.1f}" for figure in figures)


def share_lines(rows: Sequence[Mapping[str, Any]], model: str | None) -> Iterator[str]:
    """The seven shares of one model's instruments.

    Raises:
        ValueError: no row is of this model.
    """
    from ml.retrieval.evaluation.instruments import SHARES

    models = list(dict.fromkeys(row["model"] for row in rows))
    if model is not None and model not in models:
        raise ValueError(f"model {model!r} was not analysed; expected one of: {', '.join(models)}")
    if not rows:
        yield "no query is for a labelled stem, so there are no shares by instrument"
        return
    found = {
        name: sum(r["right_stem"] * r["queries"] for r in rows if r["model"] == name)
        for name in models
    }
    shown = model or max(found, key=lambda name: found[name])
    yield f"{shown}: nearest stem in percent of the queries; presence in training"
    yield f"{'':28}{'':>4}" + "".join(f"{text:>9}" for text in _HEADINGS)
    for row in rows:
        if row["model"] == shown:
            shares = "".join(f"{row[share]:>9.0f}" for share in SHARES)
            near = ""
            if row["presence"] not in ("same-text", "no-label") and row["nearest_training_label"]:
                near = f" (nearest: {row['nearest_training_label']} {row['similarity']:.2f})"
            yield f"{row['instrument']:28}{row['queries']:>4}{shares}  {row['presence']}{near}"


_HEADINGS = ("stem", "tr+inst", "tr+cat", "tr", "inst", "cat", "wrong")
"""Of the seven shares, in their order; "tr": in the right track."""


def _figure(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    interval = "" if row["low"] is None else f" ({row['low']:.1f}…{row['high']:.1f})"
    return f"{row['value']:.1f}{interval}"
