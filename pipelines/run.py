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
    from pipelines.execute import Step


def get_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m pipelines.run``."""
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
                f"{args.name} with; run `make demo` first, or train on this corpus with --train"
            )
        install_home(settings)
        register(load_settings(args.home), args.name, args.kind, args.root)
        settings = load_settings(args.home)
        overrides = chosen_settings(settings, args)
        home = StemsHome(home=str(settings.home), overrides=overrides, workers=args.workers)
        return run_corpus(home, args.name, is_trained_on=args.train)
    except ValueError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where it was")


def register(settings: "Settings", name: str, kind: str, root: Path) -> None:
    """Put a corpus into ``config.yaml`` if it is not there.

    Raises:
        ml.settings.SettingsError: the name stands for another corpus.
        ml.corpora.corpus.CorpusError: there is no such corpus.
    """
    from ml.config_file import add_corpus
    from ml.corpora.corpus import open_corpus
    from ml.settings import SettingsError

    root = root.expanduser().resolve()
    if name not in settings.corpora:
        open_corpus(kind, root)
        add_corpus(settings, name, kind=kind, root=root, options={})
        return
    found = settings.corpus(name)
    if (found.kind, found.root.resolve()) != (kind, root):
        raise SettingsError(
            f"{settings.layout.config_path} has a corpus {name!r} of kind {found.kind} at "
            f"{found.root}, you said {kind} at {root}; choose another name, or change it there"
        )


def chosen_settings(settings: "Settings", args: argparse.Namespace) -> dict[str, Any]:
    """Settings that the command line changes: what is trained on, and how long."""
    training: dict[str, Any] = {}
    if args.train:
        training["corpora"] = list(dict.fromkeys((*settings.training.corpora, args.name)))
    if args.steps is not None:
        training["overrides"] = {"steps": args.steps}
    return {"training": training} if training else {}


def run_corpus(home: "StemsHome", name: str, *, is_trained_on: bool) -> int:
    """Everything for one corpus of the settings; returns the exit code."""
    from pipelines.evaluation import evaluable_corpora
    from pipelines.execute import failures_text
    from pipelines.steps import execute_in_home
    from pipelines.summary import conclusion, scored_corpora, step_times

    settings = home.settings()
    corpora = [*settings.training.corpora] if is_trained_on else [name]
    outcomes = execute_in_home(home, first_steps(corpora, is_trained_on=is_trained_on))
    if all(outcome.status == "done" for outcome in outcomes):
        # A new model becomes champion only with all that can be found embedded.
        found = evaluable_corpora(settings) if is_trained_on else [name]
        outcomes += execute_in_home(home, last_steps(home, found))
    if any(outcome.is_stopped for outcome in outcomes):
        raise KeyboardInterrupt
    print(conclusion(settings, scored_corpora(outcomes), step_times(outcomes)))
    if is_trained_on:
        where = settings.layout.config_path
        print(f"\nTo go on training on {name}, name it under training.corpora in {where}.")
    if failures := failures_text(outcomes):
        print(f"\nNot all went well:\n{failures}", file=sys.stderr)
        return 1
    return 0


def first_steps(corpora: Sequence[str], *, is_trained_on: bool) -> "list[Step]":
    """Scan the corpora; when they are trained on, make their shards and train."""
    from pipelines.steps import prepare_step, train_step

    steps = [prepare_step(name, has_shards=is_trained_on) for name in corpora]
    return [*steps, train_step(corpora)] if is_trained_on else steps


def last_steps(home: "StemsHome", corpora: Sequence[str]) -> "list[Step]":
    """Embed and score the corpora, write the report."""
    from pipelines.evaluation import has_unseen_tracks
    from pipelines.steps import evaluate_step, report_step

    steps = []
    for name in corpora:
        is_unseen = has_unseen_tracks(home, name)
        if not is_unseen:
            print(f"every track of {name} was trained on: its scores are marked as seen")
        steps.append(evaluate_step(name, is_unseen=is_unseen))
    return [*steps, report_step()]


if __name__ == "__main__":
    sys.exit(main())
