"""``stems train``: one row of Table I at a size, on the shards of some corpora."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ml.settings import Settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "train",
        help="train a model, or resume or reuse it",
        description="Train one row of Table I. The same configuration, seed, shards and phase 1 "
        "name the same run: a finished one is reused, an interrupted one resumed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--preset",
        default="film-nce",
        help="contrastive (phase 1), class, clap, pretrained, film, film-nce",
    )
    parser.add_argument("--size", default=None, help="tiny, small or paper (default: settings)")
    parser.add_argument("--seed", type=int, default=None, help="(default: settings)")
    parser.add_argument("--corpora", nargs="+", help="corpora with shards (default: settings)")
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="*",
        default=[],
        metavar="FIELD=VALUE",
        help="configuration by dotted field, e.g. optimizer.learning_rate=3e-4",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Train."""
    from ml.device import choose_device
    from ml.training.runs import train_preset
    from ml.training.tracking import MlflowTracker

    training = settings.training
    artifact = train_preset(
        args.preset,
        layout=settings.layout,
        corpora=args.corpora or training.corpora,
        size=args.size or training.size,
        seed=training.seed if args.seed is None else args.seed,
        overrides=training.overrides | parse_overrides(args.overrides),
        device=choose_device(args.device),
        tracker=lambda folder, name: MlflowTracker(
            run_folder=folder,
            uri=settings.tracking_uri,
            experiment=settings.tracking.experiment,
            run_name=name,
        ),
    )
    print(f"{'reused' if artifact.reused else 'trained'}: {artifact.path}")
    return 0


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """``FIELD=VALUE`` pairs; values are JSON where they can be, else text.

    Raises:
        ValueError: a pair without ``=``.
    """
    overrides: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--set {pair!r}: expected FIELD=VALUE")
        try:
            overrides[name] = json.loads(text)
        except ValueError:
            overrides[name] = text
    return overrides
