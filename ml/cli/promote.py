"""``stems promote``: make a model the one that queries use, if it is not worse."""

from __future__ import annotations

import argparse

from ml.settings import Settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "promote",
        help="make a model the one that queries use, if it is not worse",
        description="Make a model the champion: its gallery must be complete, and it may not be "
        "worse than the present champion on the evaluation set (section promotion of the "
        "settings). A promotion that was stopped half-way is finished. Exit code 1: refused.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a name (film), a checkpoint folder, a model_id, an MLflow run id (default: the "
        "first of training.presets)",
    )
    parser.add_argument("--force", action="store_true", help="without comparing")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Promote, and say what became of it."""
    from ml.retrieval.promotion import promote

    found = promote(settings, args.model, is_forced=args.force, is_dry_run=args.dry_run)
    print(f"dry run: {found.reason}" if args.dry_run else found.reason)
    if found.champion is None:
        print("there is no champion")
    else:
        version = found.champion.mlflow_version
        known = f", MLflow version {version}" if version else ""
        print(f"the champion is {found.champion.model_id}{known}")
    return int(found.outcome == "refused")
