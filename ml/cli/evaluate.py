"""``stems evaluate``: score models on a corpus."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ml.cli import evaluate_alignment, evaluate_beats, evaluate_instruments
from ml.cli.embed import CONDITIONINGS, add_options, embed
from ml.scores.text import table_lines
from ml.settings import Settings

if TYPE_CHECKING:
    from ml.artifacts import Artifact
    from ml.retrieval.evaluation.evaluate import EvaluationConfig, Protocol

_PROTOCOLS: dict[str, tuple[Protocol, ...]] = {
    "default": ("default",),
    "predecessor": ("predecessor",),
    "both": ("default", "predecessor"),
}


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb with its evaluations."""
    parser = verbs.add_parser("evaluate", help="score models on a corpus")
    evaluations = parser.add_subparsers(dest="evaluation", required=True, metavar="EVALUATION")
    retrieval = evaluations.add_parser(
        "retrieval",
        help="recall and normalised rank of leave-one-out queries (Table I)",
        description="For each stem: predict it from the mix of the others and its label, and rank "
        "all stems of the corpus. Embeds the corpus first where that was not done. Queries of "
        "tracks that a model was trained on are left out and counted; where nothing else is left, "
        "they are scored and marked as seen.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    retrieval.add_argument("--corpus", required=True, metavar="NAME", help="name of the corpus")
    retrieval.add_argument(
        "--conditioning",
        nargs="+",
        choices=CONDITIONINGS,
        default=["fine"],
        help="what queries ask for: a stem's finest label, its coarsest, or 'music' for all",
    )
    retrieval.add_argument(
        "--baselines",
        action="store_true",
        help="beside --models also what needs no learning, as far as it is there: untrained, "
        "spectrum, clap-audio",
    )
    retrieval.add_argument(
        "--protocol",
        choices=tuple(_PROTOCOLS),
        default="default",
        help="default: sounding chunks, cosine; predecessor: whole files, as the published "
        "figures were measured",
    )
    retrieval.add_argument(
        "--seen", action="store_true", help="also score the tracks seen in training, marked so"
    )
    add_options(retrieval)
    retrieval.add_argument("--resamples", type=int, help="of the bootstrap (default: settings)")
    retrieval.add_argument("--seed", type=int, help="of the bootstrap (default: settings)")
    retrieval.add_argument("--json", action="store_true", help="print a JSON list, one figure each")
    retrieval.set_defaults(run=run)
    for other in (evaluate_instruments, evaluate_alignment, evaluate_beats):
        other.add_parser(evaluations)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Embed what is missing, score, print the table."""
    from ml.corpora.label_embeddings import read_label_vectors
    from ml.retrieval.evaluation.evaluate import evaluate_by_protocol

    rows: list[dict[str, Any]] = []
    # With --json nothing but the list goes to stdout.
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        if args.models and args.baselines:
            args.models = [*dict.fromkeys((*args.models, *_baselines(settings)))]
        config = _config(args, settings)
        models = [embed(args, settings, conditioning) for conditioning in args.conditioning][-1]
        vectors = read_label_vectors(settings.layout, args.corpus)
        for protocol in _PROTOCOLS[args.protocol]:
            artifact, found = evaluate_by_protocol(
                args.corpus,
                models,
                settings.layout,
                vectors,
                protocol=protocol,
                config=config,
                tracking_uri=settings.tracking_uri,
            )
            _print_artifact(artifact)
            rows += found
    if args.json:
        print(json.dumps(rows, indent=1, allow_nan=False))
        return 0
    print()
    _print_tables(rows, settings.corpus(args.corpus).kind)
    return 0


def _baselines(settings: Settings) -> list[str]:
    """The models of this home that need no learning."""
    from ml.labels.clap_files import clap_files_of
    from ml.retrieval.embeddings.baselines import is_baseline, load_models

    models = load_models(settings.layout, None, clap_files_of(settings))
    return [model.name for model in models if is_baseline(model)]


def _config(args: argparse.Namespace, settings: Settings) -> EvaluationConfig:
    from ml.device import choose_device
    from ml.retrieval.evaluation.evaluate import EvaluationConfig

    chosen = settings.evaluation
    return EvaluationConfig(
        conditionings=tuple(args.conditioning),
        splits=tuple(args.splits) if args.splits else None,
        has_seen_rows=args.seen,
        resamples=chosen.bootstrap_resamples if args.resamples is None else args.resamples,
        seed=chosen.seed if args.seed is None else args.seed,
        device=str(choose_device(args.device)),
        batch_chunks=args.batch_chunks,
        precision=args.precision,
    )


def _print_artifact(artifact: Artifact) -> None:
    print(f"{artifact.path} {'is up to date' if artifact.reused else 'is made'}")
    dropped = artifact.summary["seen_queries_dropped"]
    if artifact.summary["only_seen_tracks"]:
        print("every track was seen in training: the scores are of seen tracks and marked so")
    elif dropped:
        print(f"{dropped} queries are left out: a model was trained on their tracks")


def _print_tables(rows: Sequence[dict[str, Any]], kind: str) -> None:
    """One table per evaluation and conditioning, published figures where they belong."""
    from ml.retrieval.evaluation.evaluate import PREDECESSOR
    from ml.scores.published import published_rows

    for key in dict.fromkeys((row["evaluation"], row["conditioning"]) for row in rows):
        evaluation, conditioning = key
        table = [row for row in rows if (row["evaluation"], row["conditioning"]) == key]
        corpus = table[0]["corpus"]
        if evaluation == PREDECESSOR:
            table += published_rows(kind, corpus, conditioning)
        print("\n".join(table_lines(f"{evaluation}: {corpus}, {conditioning}", table)))
        print()
