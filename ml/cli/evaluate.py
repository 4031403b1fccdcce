"""``stems evaluate``: score models on a corpus."""

from __future__ import annotations

import argparse

from ml.cli.embed import CONDITIONINGS, add_options, embed
from ml.cli.scores import print_scores
from ml.settings import Settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb with its evaluations."""
    parser = verbs.add_parser("evaluate", help="score models on a corpus")
    evaluations = parser.add_subparsers(dest="evaluation", required=True, metavar="EVALUATION")
    retrieval = evaluations.add_parser(
        "retrieval",
        help="recall and normalised rank of leave-one-out queries (Table I)",
        description="For each stem: predict it from the mix of the others and its label, and rank "
        "all stems of the corpus. Embeds the corpus first where that was not done.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    retrieval.add_argument("--corpus", required=True, metavar="NAME", help="name of the corpus")
    retrieval.add_argument("--conditioning", nargs="+", choices=CONDITIONINGS, default=["fine"])
    add_options(retrieval)
    retrieval.add_argument("--resamples", type=int, help="of the bootstrap (default: settings)")
    retrieval.add_argument("--seed", type=int, help="of the bootstrap (default: settings)")
    retrieval.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Embed what is missing, score, print the table."""
    from ml.retrieval.evaluate import evaluate_retrieval
    from ml.retrieval.score_files import read_scores

    chosen = settings.evaluation
    models = [embed(args, settings, conditioning) for conditioning in args.conditioning][-1]
    artifact = evaluate_retrieval(
        args.corpus,
        settings.layout,
        {model.name: model.model_id for model in models},
        conditionings=args.conditioning,
        resamples=chosen.bootstrap_resamples if args.resamples is None else args.resamples,
        seed=chosen.seed if args.seed is None else args.seed,
    )
    print(f"{artifact.path} {'is up to date' if artifact.reused else 'is made'}\n")
    print_scores(read_scores(settings.layout, corpus=args.corpus))
    return 0
