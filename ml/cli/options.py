"""What verbs share: how help looks, and options and sentences that are the same everywhere."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml.artifacts import Artifact
    from ml.settings import Settings

_A_MODEL = "a model's name, folder, run, id, owner/name on a hub, or models:/NAME@ALIAS of MLflow"
_OF_THE_COMMAND = ("--home", "--verbose", "-v", "--version")
"""What is said before the verb."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help that says defaults, but none that says nothing or that the text says itself.

    A text of several lines (examples, groups of verbs) is laid out already and stays so.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text:
            return super()._fill_text(text, width, indent)
        return "\n".join(f"{indent}{line}" for line in text.splitlines())

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []) or "default" in (action.help or ""):
            return action.help
        if isinstance(action.default, (list, tuple)):
            return f"{action.help or ''} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """The parser of the command, of its verbs and of their actions; it guesses what was meant."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": _HelpFormatter, **options})

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride] - overloads
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """Parse all; an option that is unknown is an error of the verb that it was given to."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown)}")
        return namespace, unknown

    def _hint(self, unknown: Sequence[str]) -> str:
        words = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        for word in words:
            if word in _OF_THE_COMMAND:
                return f"; {word} goes before the verb: stems {word} … VERB …"
            if hint := _guess(word, self._option_string_actions):
                return hint
        return ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action,
                f"invalid choice: {value!r}{_guess(str(value), known)}; "
                f"choose from {', '.join(known)}",
            )


def _guess(name: str, known: Iterable[str]) -> str:
    from ml.plain import did_you_mean

    return did_you_mean(name, known)


def examples(*lines: str) -> str:
    """Lay out the examples at the end of a help."""
    return "\n".join([f"example{'s' if len(lines) > 1 else ''}:", *(f"  {x}" for x in lines)])


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """Add ``--corpus``, which must be given."""
    parser.add_argument("--corpus", required=True, metavar="NAME", help="name of the corpus")


def add_conditioning(parser: argparse.ArgumentParser) -> None:
    """Add ``--conditioning`` where there is one."""
    from ml.tracks import CONDITIONINGS  # the help of the command needs no more than this file

    parser.add_argument(
        "--conditioning",
        choices=CONDITIONINGS,
        default="fine",
        help="what queries ask for: a stem's finest label, its coarsest, or any music",
    )


def add_model(parser: argparse.ArgumentParser, default: str = "the champion, else starter") -> None:
    """Add ``--model``; without it the model that answers queries is meant."""
    parser.add_argument("--model", metavar="MODEL", help=f"{_A_MODEL} (default: {default})")


def add_models(parser: argparse.ArgumentParser, more: str) -> None:
    """Add ``--models``, each as ``--model``, and what else they may be."""
    parser.add_argument(
        *("--models", "--model"),
        nargs="+",
        action="extend",
        metavar="MODEL",
        help=f"{_A_MODEL}; {more}",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def add_draws(parser: argparse.ArgumentParser, of: str = "of the bootstrap") -> None:
    """Add ``--resamples`` and ``--seed``; see ``draws``."""
    parser.add_argument(
        "--resamples",
        type=int,
        metavar="N",
        help="of the bootstrap (default: evaluation.bootstrap_resamples)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help=f"{of} (default: evaluation.seed)")


def check_audio(path: Path) -> None:
    """Refuse what is no audio file before anything is loaded to listen to it.

    Raises:
        ValueError: says what is there, and what to name instead.
    """
    from ml.audio.files import AUDIO_SUFFIXES, AudioError, probe
    from ml.plain import did_you_mean

    if path.is_file() and path.stat().st_size:
        try:
            probe(path)
        except AudioError as error:
            reason = str(error).rpartition("; ")[0]
            raise ValueError(f"{reason}; convert it to wav or flac, or name another file") from None
        return
    folder = path if path.is_dir() else path.parent
    folder = folder if folder.name else folder.absolute()  # "." says nothing
    if not folder.is_dir():
        raise ValueError(f"{path} does not exist, nor does the folder {folder}; correct the path")
    names = sorted(x.name for x in folder.iterdir() if x.suffix.lower() in AUDIO_SUFFIXES)
    there = f"{folder} has {_listed(names)}" if names else f"{folder} has no audio files"
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected an audio file; {there}")
    if path.exists():
        raise ValueError(f"{path} is empty or no plain file, expected an audio file; {there}")
    meant = did_you_mean(path.stem, [Path(name).stem for name in names])
    raise ValueError(f"{path} does not exist{meant}; {there}")


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def draws(args: argparse.Namespace, settings: Settings) -> dict[str, int]:
    """Give ``resamples`` and ``seed``, from the command line or else from the settings."""
    chosen = settings.evaluation
    return {
        "resamples": chosen.bootstrap_resamples if args.resamples is None else args.resamples,
        "seed": chosen.seed if args.seed is None else args.seed,
    }


def state_text(artifact: Artifact) -> str:
    """Say where an artifact lies and whether it was up to date."""
    return f"{artifact.path} {'is up to date' if artifact.reused else 'is made'}"


def count_text(number: int, word: str) -> str:
    """Say how many, as in ``1 track`` and ``2 tracks``."""
    return f"{number} {word}{'' if number == 1 else 's'}"
