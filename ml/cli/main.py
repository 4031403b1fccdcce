"""The ``stems`` command: one verb per stage, in the order of the data.

Exit codes: 0 done, 1 a run failed, 2 wrong use (with one sentence that says what to do).
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ml.artifacts import ArtifactError
from ml.locks import LockedError
from ml.progress import set_up_logging

VERBS = (
    "demo",
    "corpus",
    "labels",
    "shards",
    "train",
    "embed",
    "evaluate",
    "scores",
    "query",
    "serve",
    "beats",
    "table",
    "promote",
    "compare",
    "report",
    "config",
    "gc",
    "migrate",
    "import-stem-jepa",
)


FAILED, WRONG_USE = 1, 2


def get_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="stems",
        description="Find the stem that fits: stem retrieval by mix and instrument.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--home", type=Path, default=None, help="folder of all artifacts (STEMS_HOME or ./data)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show debugging messages")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in VERBS:
        importlib.import_module(f"ml.cli.{name.replace('-', '_')}").add_parser(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    args = get_parser().parse_args(arguments)
    set_up_logging(logging.DEBUG if args.verbose else logging.INFO)
    from ml.settings import load_settings

    try:
        return args.run(args, load_settings(args.home))
    except (ArtifactError, LockedError, RuntimeError) as error:
        print(f"stems {args.verb}: {error}", file=sys.stderr)
        return FAILED if isinstance(error, RuntimeError) else WRONG_USE
    except (ValueError, FileNotFoundError) as error:
        print(f"stems {args.verb}: {error}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt as error:
        print(f"stems {args.verb}: {error or 'interrupted'}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        sys.stderr.close()
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
