"""``stems demo``: build the demo corpora. Nothing is trained here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ml.cli.options import cores, examples

if TYPE_CHECKING:
    from ml.settings import Settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb ``demo``."""
    parser = verbs.add_parser(
        "demo",
        description="Compose and render the demo corpora (demo, demo-plain, demo-swapped) below "
        "the home's corpora folder. Nothing is downloaded. What is there already is kept.",
        epilog=examples("stems --home small demo --train-songs 20 --heldout-songs 10"),
    )
    parser.add_argument("--seed", type=int, help="all songs follow from it (default: demo.seed)")
    parser.add_argument(
        "--train-songs", type=int, help="songs to train on (default: demo.train_songs)"
    )
    parser.add_argument(
        "--heldout-songs", type=int, help="songs to test on (default: demo.heldout_songs)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=cores(),
        help="processes (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Build the corpora and print what they hold."""
    from ml.corpora.demo.build import build_demo_corpora
    from ml.corpora.demo.songs import DemoConfig

    names = ("seed", "train_songs", "heldout_songs")
    chosen = {name: value for name in names if (value := getattr(args, name)) is not None}
    config = DemoConfig(**{**settings.demo.model_dump(), **chosen})
    artifacts = build_demo_corpora(settings.layout.corpora, config, workers=args.workers)
    for name, artifact in artifacts.items():
        summary = artifact.summary
        state = "up to date" if artifact.reused else "built"
        print(
            f"{name}: {state}, {summary['songs']} songs, {summary['stems']} stems, "
            f"{summary['stem_hours']} hours of stems, in {artifact.path}"
        )
    return 0
