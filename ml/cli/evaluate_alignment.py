"""``stems evaluate alignment``: do models tell the time at which a stem fits?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml.cli.embed import CONDITIONINGS, add_options, embed
from ml.settings import Settings


def add_parser(evaluations: argparse._SubParsersAction) -> None:
    """Add the evaluation."""
    parser = evaluations.add_parser(
        "alignment",
        help="whether a stem's chunk of the same time ranks above its chunks at other times",
        description="For each chunk of a query: rank the chunks of the stem that was left out. "
        "Prints how often the chunk of the same time comes first, its mean rank (0: always first, "
        "50: chance), and the mean rank by distance in time. Embeds the corpus first where that "
        "was not done.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--corpus", required=True, metavar="NAME", help="name of the corpus")
    parser.add_argument("--conditioning", choices=CONDITIONINGS, default="fine")
    add_options(parser)
    parser.add_argument("--resamples", type=int, help="of the bootstrap (default: settings)")
    parser.add_argument("--seed", type=int, help="of the bootstrap (default: settings)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Embed what is missing, score, print the table."""
    from ml.cli.scores import print_scores
    from ml.corpora.label_embeddings import read_label_vectors
    from ml.device import choose_device
    from ml.retrieval.evaluation.alignment import evaluate_alignment, read_offsets
    from ml.scores.files import read_artifact_scores
    from ml.scores.tracking import log_scores, tracking_runs

    chosen = settings.evaluation
    models = embed(args, settings, args.conditioning)
    has_labels = (settings.layout.labels(args.corpus) / "manifest.json").is_file()
    artifact = evaluate_alignment(
        args.corpus,
        settings.layout,
        models,
        read_label_vectors(settings.layout, args.corpus) if has_labels else {},
        conditioning=args.conditioning,
        device=str(choose_device(args.device)),
        batch_chunks=args.batch_chunks,
        precision=args.precision,
        resamples=chosen.bootstrap_resamples if args.resamples is None else args.resamples,
        seed=chosen.seed if args.seed is None else args.seed,
    )
    rows = read_artifact_scores(artifact)
    log_scores(artifact, rows, tracking_runs(models), settings.tracking_uri)
    print(f"{artifact.path} {'is up to date' if artifact.reused else 'is made'}\n")
    print_scores(rows)
    print("\n".join(offset_lines(read_offsets(settings.layout, args.corpus))))
    return 0


def offset_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Mean rank by distance in time, models as columns."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells = {(row["offset_s"], row["model"]): row["value"] for row in rows}
    yield "mean rank (0 first, 100 last) of a stem's chunks by distance from the query's time"
    yield f"{'seconds':>8}" + "".join(f"{model:>14}" for model in models)
    for offset_s in sorted({row["offset_s"] for row in rows}):
        figures = (cells.get((offset_s, model)) for model in models)
        yield f"{offset_s:>8.0f}" + "".join(
            f"{'' if value is None else f'{value:.1f}':>14}" for value in figures
        )
