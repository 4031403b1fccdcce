"""``stems rollback``: let queries use the champion before again."""

from __future__ import annotations

import argparse

from ml.settings import Settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "rollback",
        help="let queries use the champion before again",
        description="Make the previous champion the champion again, in champion.json and as "
        "MLflow's alias. The present one counts as withdrawn: it is promoted again only with "
        "stems promote --force. A second rollback undoes the first.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - every verb's
    """Roll back, and say what was done."""
    from ml.retrieval.rollback import roll_back

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
