"""``stems gc``: list what nothing needs any more, and delete it when told to."""

from __future__ import annotations

import argparse
from pathlib import Path

from ml.settings import Settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "gc",
        help="list (and delete) what nothing needs any more",
        description="List shards that no manifest, checkpoint or unfinished run names, "
        "temporaries of processes that ended, and embeddings and databases of models that no run "
        "holds, with their sizes and why. Nothing is deleted without --delete.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--remote",
        action="store_true",
        help="look at shards at a URL (shards.uri) too; only if no other home trains from there",
    )
    parser.add_argument("--delete", action="store_true", help="delete what is listed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """List, and delete if asked."""
    from ml.upkeep.collect import collect_leftovers

    leftovers = collect_leftovers(settings.layout, delete=args.delete, has_remote=args.remote)
    for leftover in leftovers.found:
        path = leftover.path
        if isinstance(path, Path):
            path = path.relative_to(settings.layout.home)
        print(f"{leftover.n_bytes:15,d}  {path}: {leftover.reason}")
    for sentence in leftovers.kept:
        print(f"kept  {sentence}")
    count = len(leftovers.found)
    total = f"{count} {'leftover' if count == 1 else 'leftovers'}, {leftovers.n_bytes:,d} bytes"
    print(f"{total}{' deleted' if args.delete else '; delete with: stems gc --delete'}")
    return 0
