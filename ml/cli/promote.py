"""``stems promote`` and ``stems rollback``: which model queries use.

``promote`` takes a model that is not worse, ``rollback`` goes back to the champion before.
"""

from __future__ import annotations

import argparse

from ml.cli.options import examples
from ml.settings import Settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs ``promote`` and ``rollback``."""
    _add_promote(verbs)
    _add_rollback(verbs)


def _add_promote(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "promote",
        description="Make a model the champion: its gallery must be complete, and it may not be "
        "worse than the present champion on the evaluation set, and must hear the mix (section "
        "promotion of the settings). A promotion that was stopped half-way is finished. Exit code "
        "1: refused.",
        epilog=examples("stems promote two-part --dry-run", "stems promote two-part"),
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a name (film), a checkpoint folder, a model_id, an MLflow run id (default: the "
        "first of training.presets)",
    )
    parser.add_argument(
        "--force", action="store_true", help="without comparing, deaf to the mix or not"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Promote, and say what became of it."""
    from ml.retrieval.champion.promotion import promote

    done = promote(settings, args.model, is_forced=args.force, is_dry_run=args.dry_run)
    print(f"dry run: {done.reason}" if args.dry_run else done.reason)
    if done.champion is None:
        print("there is no champion")
    else:
        version = done.champion.mlflow_version
        known = f", MLflow version {version}" if version else ""
        print(f"the champion is {done.champion.model_id}{known}")
    return int(done.outcome == "refused")


def _add_rollback(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "rollback",
        description="Make the previous champion the champion again, in champion.json and as "
        "MLflow's alias. The present one counts as withdrawn: it is promoted again only with "
        "stems promote --force. A second rollback undoes the first.",
        epilog=examples("stems rollback"),
    )
    parser.set_defaults(run=run_rollback)


def run_rollback(args: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - every verb's
    """Roll back, and say what was done."""
    from ml.retrieval.champion.promotion import roll_back

    done = roll_back(settings)
    print(
        f"{done.champion.model_id} is the champion again, {done.withdrawn.model_id} is withdrawn "
        f"(to take it back: stems promote {done.withdrawn.model_id} --force)"
    )
    if done.champion.mlflow_version:
        print(f"MLflow's alias names version {done.champion.mlflow_version}")
    for gap in done.gaps:
        print(f"queries will not find all: {gap}")
    return 0
