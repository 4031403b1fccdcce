"""The ``stems`` command: one verb per stage, in the order of the data.

``GROUPS`` says which module has which verb; it is imported when its verb is called, so that
``stems --help`` answers at once. A module's ``add_parser(verbs)`` adds its verbs, and sets for each
``run(args, settings)``, which returns the exit code.

Exit codes: 0 done, 1 a run failed, 2 wrong use (with one sentence that says what to do).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml.cli.options import Parser, examples

GROUPS = {
    "find a stem": {
        "index": ("embed", "make a folder of stems searchable, without training"),
        "query": ("query", "find the stems that fit with a mix"),
        "serve": ("query", "open the page: drop a mix, find a stem, hear both together"),
        "beats": ("beats", "find the beats of a recording"),
    },
    "prepare a corpus": {
        "demo": ("corpus", "build the demo corpora"),
        "corpus": ("corpus", "look into corpora, add them, build their tables"),
        "labels": ("labels", "compute the conditions of a corpus's labels"),
        "shards": ("shards", "make and check the training shards of a corpus"),
    },
    "train and embed": {
        "train": ("train", "train a model, or resume or reuse it"),
        "embed": ("embed", "embed a corpus with the models, fill their tables"),
        "export": ("train", "write a model as a folder for others, with a card"),
        "import-stem-jepa": ("train", "turn a public Stem-JEPA checkpoint into a model"),
    },
    "measure": {
        "evaluate": ("evaluate", "score models on a corpus"),
        "scores": ("report", "print the latest scores"),
        "compare": ("report", "whether a model is better than another, and where"),
        "report": ("report", "write the HTML report"),
    },
    "choose what answers": {
        "table": ("table", "where the searchable tables lie, what is in them"),
        "promote": ("table", "make a model the one that queries use, if it is not worse"),
        "rollback": ("table", "let queries use the champion before again"),
    },
    "keep a home": {
        "config": ("upkeep", "show settings and where each came from"),
        "gc": ("upkeep", "list (and delete) what nothing needs any more"),
        "migrate": ("upkeep", "name artifacts of other formats; mend a moved home"),
        "completion": ("main", "print what lets a shell complete all this"),
    },
}
"""Heading in the help → its verbs: each with its module in ``ml.cli``, and what it does."""
VERBS = {verb: entry for verbs in GROUPS.values() for verb, entry in verbs.items()}
FAILED, WRONG_USE = 1, 2
_REMEDIES = {
    errno.ENOSPC: "free space on its disk",
    errno.EDQUOT: "free space in its quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EROFS: "make its disk writable, or name another home,",
    errno.EACCES: "mend its permissions, or name another home,",
    errno.EPERM: "mend its permissions, or name another home,",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
"""What to do about an error of the system."""
_BEGIN_A_HOME = (
    "index",
    "demo",
    "corpus inspect",
    "corpus add",
    "labels fetch",
    "evaluate rendered",
    "export",
    "import-stem-jepa",
    "completion",
)
"""What works without a home; all else asks for one that is there."""
_PACKAGE = "stem-retrieval"


class _Verbs(argparse._SubParsersAction):
    """The verbs; the one that is called gets its options only then."""

    def add_parser(self, name: str, **options: Any) -> Any:
        """Add a verb, with what it does in a line."""
        return super().add_parser(name, help=VERBS[name][1], **options)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Let the verb's module add its options, and parse them."""
        if values[0] in VERBS:
            module, _ = VERBS[values[0]]
            for verb, (other, _) in VERBS.items():
                if other == module:
                    del self._name_parser_map[verb]
            importlib.import_module(f"ml.cli.{module}").add_parser(self)
        super().__call__(parser, namespace, values, option_string)


class _Version(argparse.Action):
    """Prints the versions of package and source; looked up only when asked for."""

    def __call__(self, parser: Any, *_: Any, **__: Any) -> None:
        """Print them and end."""
        from importlib.metadata import PackageNotFoundError, version

        from ml.artifacts import git_revision

        try:
            number = version(_PACKAGE)
        except PackageNotFoundError:
            number = "not installed"
        print(f"stems {number} (revision {git_revision()})")
        parser.exit()


def get_parser(*, is_complete: bool = False) -> argparse.ArgumentParser:
    """Make the parser of all verbs.

    Args:
        is_complete: whether all verbs have their options at once, not only when they are called.
    """
    parser = Parser(
        prog="stems",
        usage="stems [-h] [--version] [--home HOME] [-v] VERB ...",
        description="Find the stem that fits: stem retrieval by mix and instrument.",
        epilog=examples(
            'stems query mix.wav --instrument "acoustic guitar" -k 10',
            "stems VERB --help    # options and examples of a verb",
        ),
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    parser.add_argument(
        "--home", type=Path, default=None, help="folder of all artifacts (STEMS_HOME or ./data)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show debugging messages")
    verbs = parser.add_subparsers(
        dest="verb",
        required=True,
        metavar="VERB",
        prog="stems",
        action=_Verbs,
        help="what to do" if is_complete else argparse.SUPPRESS,  # GROUPS say it better
    )
    if is_complete:
        for module in dict.fromkeys(module for module, _ in VERBS.values()):
            importlib.import_module(f"ml.cli.{module}").add_parser(verbs)
    else:
        for verb in VERBS:
            verbs.add_parser(verb)
    width = max(map(len, VERBS))
    for title, group in GROUPS.items():
        lines = [f"{verb:{width}}  {text}" for verb, (_, text) in group.items()]
        parser.add_argument_group(title, "\n".join(lines))
    return parser


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb ``completion``."""
    parser = verbs.add_parser(
        "completion",
        description="Print a script that lets the shell complete verbs, options and files.",
        epilog=examples(
            'eval "$(stems completion bash)"    # in ~/.bashrc',
            "stems completion zsh > ~/.zfunc/_stems    # a folder of fpath",
        ),
    )
    parser.add_argument("shell", choices=("bash", "zsh"), help="which shell")
    parser.set_defaults(run=run_completion)


def run_completion(args: argparse.Namespace, _: Any) -> int:
    """Print the script."""
    import shtab

    parser = get_parser(is_complete=True)
    _complete_files(parser)
    print(shtab.complete(parser, args.shell))
    return 0


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Let arguments that are paths be completed with files."""
    import shtab

    for action in parser._actions:
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                _complete_files(verb)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    command = "stems"
    try:
        args = get_parser().parse_args(arguments)
        command = f"stems {args.verb}"
        return _run(args)
    except KeyboardInterrupt as error:
        what = str(error) or "stopped by Ctrl-C"
        sentence, code = f"{what}; the same command goes on from what is finished", FAILED
    except BrokenPipeError:
        sys.stderr.close()
        return FAILED
    except (ValueError, FileNotFoundError) as error:
        sentence, code = str(error), _code_of(error)
    except OSError as error:
        sentence, code = _os_sentence(error), FAILED
    except RuntimeError as error:
        sentence, code = _runtime_sentence(error), FAILED
    from ml.progress import printable

    print(f"{command}: {printable(sentence)}", file=sys.stderr)
    return code


def _code_of(error: Exception) -> int:
    """Tell a network that stays away from what the user can correct."""
    from ml.object_store import UnreachableError

    return FAILED if isinstance(error, UnreachableError) else WRONG_USE


def _run(args: argparse.Namespace) -> int:
    import logging

    from ml.progress import set_up_logging
    from ml.settings import existing_home, load_settings

    set_up_logging(logging.DEBUG if args.verbose else logging.INFO)
    if f"{args.verb} {getattr(args, 'action', '')}".strip() not in _BEGIN_A_HOME:
        existing_home(args.home)
    with contextlib.redirect_stdout(_Printable(sys.stdout)):
        return args.run(args, load_settings(args.home))


class _Printable:
    """Standard output that obeys no control characters of names and labels."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text."""
        from ml.progress import printable

        return self._stream.write(printable(text))

    def flush(self) -> None:
        """Write what is held back."""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _os_sentence(error: OSError) -> str:
    """Say what the system refused, where, and what to do about it."""
    reason = error.strerror or str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{reason}{_advice(error.errno or 0)}"


def _runtime_sentence(error: RuntimeError) -> str:
    """Say what went wrong; of what a library met in the system, what to do about it too."""
    from ml.plain import first_line

    met = [code for code in _REMEDIES if os.strerror(code) in str(error)]
    return f"{first_line(error)}{_advice(met[0])}" if met else str(error)


def _advice(code: int) -> str:
    remedy = _REMEDIES.get(code)
    return f"; {remedy} and run the same command again: what is finished is kept" if remedy else ""


if __name__ == "__main__":
    sys.exit(main())
