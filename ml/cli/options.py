"""What verbs share: how help looks, and options and sentences that are the same everywhere."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml.artifacts import Artifact
    from ml.settings import Settings

CONDITIONINGS = ("fine", "coarse", "none")
"""What a query asks for: a stem's finest label, its coarsest, or any music."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help that says defaults, but none that says nothing or that the text says itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []) or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """The parser of the command, of its verbs and of their actions."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": _HelpFormatter, **options})


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """Add ``--corpus``, which must be given."""
    parser.add_argument("--corpus", required=True, metavar="NAME", help="name of the corpus")


def add_model(parser: argparse.ArgumentParser, default: str = "the champion") -> None:
    """Add ``--model``; without it the champion is meant."""
    parser.add_argument(
        "--model", metavar="NAME|PATH", help=f"model or checkpoint folder (default: {default})"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def add_draws(parser: argparse.ArgumentParser, of: str = "of the bootstrap") -> None:
    """Add ``--resamples`` and ``--seed``; see ``draws``."""
    parser.add_argument("--resamples", type=int, help="of the bootstrap (default: settings)")
    parser.add_argument("--seed", type=int, help=f"{of} (default: settings)")


def draws(args: argparse.Namespace, settings: Settings) -> dict[str, int]:
    """Give ``resamples`` and ``seed``, from the command line or else from the settings."""
    chosen = settings.evaluation
    return {
        "resamples": chosen.bootstrap_resamples if args.resamples is None else args.resamples,
        "seed": chosen.seed if args.seed is None else args.seed,
    }


def state_text(artifact: Artifact, made: str = "is made") -> str:
    """Say where an artifact lies and whether it was up to date."""
    return f"{artifact.path} {'is up to date' if artifact.reused else made}"


def count_text(number: int, word: str) -> str:
    """Say how many, as in ``1 track`` and ``2 tracks``."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
