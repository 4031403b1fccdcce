"""One corpus through the whole pipeline: ``python -m pipelines.run NAME KIND ROOT [--train]``.

The corpus becomes part of ``STEMS_HOME/config.yaml``, is scanned, embedded with the current models
and scored, and the report is written: the same jobs, the same home as the demo. With ``--train``
it is sharded too, and trained on together with the corpora of ``training.corpora``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assets_def.resources import StemsHome
    from ml.settings import Settings
    from pipelines.execute import Outcome


def get_parser() -> argparse.ArgumentParser:
    """Make the parser of ``python -m pipelines.run``."""
    from ml.corpora.corpus import kinds_help
    from pipelines.home import run_options

    parser = argparse.ArgumentParser(
        parents=[run_options()],
        prog="python -m pipelines.run",
        description="Embed and evaluate a corpus; shard it and train on it when asked.",
    )
    parser.add_argument("name", metavar="NAME", help="its name from now on")
    parser.add_argument("kind", metavar="KIND", help=kinds_help())
    parser.add_argument("root", metavar="ROOT", type=Path, help="its folder, or the CSV")
    parser.add_argument(
        "--train", action="store_true", help="train on it too, with training.corpora"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a corpus; 0 done, 1 something failed, 2 wrong use."""
    from assets_def.resources import StemsHome
    from ml.corpora.registration import register_corpus
    from ml.locks import LockedError
    from ml.progress import set_up_logging
    from ml.settings import load_settings
    from pipelines.home import install_home

    set_up_logging()
    parser = get_parser()
    args = parser.parse_args(arguments)
    try:
        settings = load_settings(args.home)
        if not args.train and not settings.layout.models_index.is_file():
            parser.error(
                f"{settings.layout.models_index} does not exist: there is no model to embed "
                f"score on {args.name}; run `make demo` first, train on this corpus with --train, "
                f"or find its stems without training: stems index {args.root}"
            )
        install_home(settings)
        register_corpus(load_settings(args.home), args.kind, args.root, args.name)
        settings = load_settings(args.home)
        overrides = chosen_settings(settings, args)
        home = StemsHome(home=str(settings.home), overrides=overrides, workers=args.workers)
        return run_corpus(home, args.name, is_trained_on=args.train)
    except LockedError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where it was")


def chosen_settings(settings: "Settings", args: argparse.Namespace) -> dict[str, Any]:
    """Give the settings that the command line changes: what is trained on, and how long."""
    training: dict[str, Any] = {}
    if args.train:
        training["corpora"] = list(dict.fromkeys((*settings.training.corpora, args.name)))
    if args.steps is not None:
        training["overrides"] = {"steps": args.steps}
    return {"training": training} if training else {}


def run_corpus(home: "StemsHome", name: str, *, is_trained_on: bool) -> int:
    """Make everything for one corpus of the settings; returns the exit code."""
    from pipelines.execute import execute_in_home
    from pipelines.jobs import (
        Step,
        evaluable_corpora,
        evaluate_step,
        evaluation_assets,
        prepare_steps,
        train_step,
    )

    settings = home.settings()
    trained_on = settings.training.corpora if is_trained_on else ()
    steps = prepare_steps(trained_on or [name], trained_on=trained_on)
    outcomes = execute_in_home(home, [*steps, train_step(trained_on)] if trained_on else steps)
    if all(outcome.status == "done" for outcome in outcomes):
        # A new model becomes champion only with all that can be found embedded.
        evaluated = evaluable_corpora(settings) if is_trained_on else [name]
        steps = [evaluate_step(x, assets=tuple(evaluation_assets(home, x))) for x in evaluated]
        for step in steps:
            if "instrument_scores" not in step.assets:
                print(
                    f"every track of {step.partition} was trained on: its scores are marked as seen"
                )
        outcomes += execute_in_home(home, [*steps, Step(job="write_report")])
    return conclude(settings, outcomes, note=_how_to_keep(settings, name) if trained_on else "")


def conclude(
    settings: "Settings",
    outcomes: Sequence["Outcome"],
    *,
    timed: Sequence[tuple[str, float]] = (),
    query: str | None = None,
    note: str = "",
) -> int:
    """Print what came of the steps; returns the exit code.

    Args:
        settings: of the home.
        outcomes: of the steps.
        timed: name and elapsed seconds of what came before them.
        query: a command that shows what queries do.
        note: what else there is to say.

    Raises:
        KeyboardInterrupt: a step was interrupted.
    """
    from pipelines.execute import conclusion, failures_text, scored_corpora, step_times

    if any(outcome.is_stopped for outcome in outcomes):
        raise KeyboardInterrupt
    times = [*timed, *step_times(outcomes)]
    print(conclusion(settings, scored_corpora(outcomes), times, query=query))
    if note:
        print(f"\n{note}")
    if failures := failures_text(outcomes):
        print(f"\nNot all went well:\n{failures}", file=sys.stderr)
        return 1
    return 0


def _how_to_keep(settings: "Settings", name: str) -> str:
    where = settings.layout.config_path
    return f"To go on training on {name}, name it under training.corpora in {where}."


if __name__ == "__main__":
    sys.exit(main())
