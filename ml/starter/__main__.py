"""``python -m ml.starter RUN``: make the model of a run the one that comes with the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def get_parser() -> argparse.ArgumentParser:
    """Make the parser of ``python -m ml.starter``."""
    parser = argparse.ArgumentParser(
        prog="python -m ml.starter",
        description="Write the weights of a trained model as bf16 to ml/starter/model, with its "
        "card and its record. The card has the figures that this home has of the shipped model "
        "(stems evaluate retrieval --models starter), else of the run: run it again after scoring.",
    )
    parser.add_argument("model", metavar="RUN", help="a name, a run, a checkpoint folder, an id")
    parser.add_argument("--version", default="1", help="of the model, in its card (default: 1)")
    parser.add_argument("--home", type=Path, help="of the run (default: STEMS_HOME, else ./data)")
    return parser


def main() -> int:
    """Make it; 0 done, 2 wrong use."""
    from ml.settings import existing_home, load_settings
    from ml.starter.make import make_starter

    args = get_parser().parse_args()
    try:
        settings = load_settings(existing_home(args.home))
        made = make_starter(settings, args.model, version=args.version)
    except ValueError as error:
        print(f"python -m ml.starter: {error}", file=sys.stderr)
        return 2
    print(f"{made.path} is made: model {made.fingerprint}, {made.summary['n_bytes'] / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
