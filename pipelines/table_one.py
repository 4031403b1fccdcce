"""Table I (Riou et al.): ``python -m pipelines.table_one --train NAME … --evaluate NAME …``.

The rows of the paper and ``film-nce``, all from one phase 1, scored by all protocols on all splits,
asked for fine and for coarse labels. The same jobs and the same home as everything else: what is up
to date is reused, an interrupted training resumes. The champion stays who it is.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from ml.settings import Settings
    from pipelines.jobs import Step

PRESETS = ["class", "clap", "pretrained", "film", "film-nce"]
"""Beside ``contrastive``, the phase 1 of the last three."""


def get_parser() -> argparse.ArgumentParser:
    """Make the parser of ``python -m pipelines.table_one``."""
    from pipelines.home import run_options

    parser = argparse.ArgumentParser(
        parents=[run_options()],
        prog="python -m pipelines.table_one",
        description="Train all rows of Table I and score them; corpora come into a home with "
        "stems corpus add.",
    )
    parser.add_argument("--train", nargs="+", metavar="NAME", required=True, help="trained on")
    parser.add_argument("--evaluate", nargs="+", metavar="NAME", required=True, help="scored on")
    parser.add_argument("--size", help="tiny, small or paper (default: training.size)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the table; 0 done, 1 something failed, 2 wrong use."""
    from pipelines.home import run_command

    return run_command(get_parser(), make_table, arguments)


def make_table(args: argparse.Namespace) -> int:
    """Train all rows and score them; returns the exit code."""
    from assets_def.resources import StemsHome
    from ml.settings import existing_home, load_settings
    from pipelines.execute import execute_in_home
    from pipelines.home import install_home
    from pipelines.run import conclude

    overrides = chosen_settings(args)
    settings = load_settings(existing_home(args.home), overrides)
    steps = table_steps(settings, args.evaluate)
    install_home(settings)
    home = StemsHome(home=str(settings.home), overrides=overrides, workers=args.workers)
    return conclude(settings, execute_in_home(home, steps), note=departures(settings))


def chosen_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Give the settings that make the table, whatever else the home says."""
    from ml.retrieval.evaluation.evaluate import EVALUATIONS
    from ml.tracks import Split

    training: dict[str, Any] = {"corpora": args.train, "presets": PRESETS, "start": None}
    if args.size is not None:
        training["size"] = args.size
    if args.steps is not None:
        training["overrides"] = {"steps": args.steps}
    evaluation = {
        "protocols": list(EVALUATIONS),
        "splits": list(get_args(Split)),
        "conditionings": ["fine", "coarse"],
    }
    no_beats: dict[str, Any] = {"corpora": [], "heldout": []}
    return {"training": training, "evaluation": evaluation, "beats": no_beats}


def table_steps(settings: "Settings", evaluated: Sequence[str]) -> list["Step"]:
    """Plan the table.

    Raises:
        ml.settings.SettingsError: no corpus has one of the names.
    """
    from pipelines.jobs import Step, evaluate_step, prepare_steps, train_step

    trained_on = settings.training.corpora
    names = dict.fromkeys((*trained_on, *evaluated))
    for name in names:
        settings.corpus(name)
    train = train_step(trained_on)
    assets = ("stem_embeddings", "retrieval_scores")
    return [
        *prepare_steps(names, trained_on=trained_on),
        train,
        *(
            evaluate_step(name, needs=(f"prepare_corpus {name}", train.name), assets=assets)
            for name in evaluated
        ),
        Step(job="write_report", assets=("report",), needs=(train.name,)),
    ]


def departures(settings: "Settings") -> str:
    """Say what of these settings is not the paper's; empty where all is."""
    chosen, training = settings.label_encoder.name, settings.training
    found = [
        f"labels by {chosen}, not clap" if chosen != "clap" else "",
        f"size {training.size}" if training.size != "paper" else "",
        f"overrides {training.overrides}" if training.overrides else "",
    ]
    named = ", ".join(filter(None, found))
    return f"Not as in the paper: {named}." if named else ""


if __name__ == "__main__":
    sys.exit(main())
