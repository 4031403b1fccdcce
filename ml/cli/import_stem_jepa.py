"""``stems import-stem-jepa``: a checkpoint of the predecessor's public code as a model of ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from ml.settings import Settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "import-stem-jepa",
        help="turn a checkpoint of the public Stem-JEPA code into a model folder",
        description="Read the encoder, the target encoder and the class predictor of a Lightning "
        "checkpoint of the public Stem-JEPA code and write a model folder that loads like ours. "
        "Nothing in the file is executed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="the Lightning file")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write (new)")
    parser.add_argument(
        "--heads", type=int, default=None, help="attention heads (default: one per 64 dimensions)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - the verb's shape
    """Import."""
    from ml.models.predecessor import NAME, read_predecessor
    from ml.training.checkpoints import save_checkpoint

    if args.out.exists():
        raise ValueError(f"{args.out} exists already; give a folder that is not there yet")
    model, config = read_predecessor(args.checkpoint, heads=args.heads)
    # What it was trained on is not in the file: evaluation cannot leave those tracks out.
    origin = {"name": NAME, "label_encoder": {}, "training_tracks": [], "training_labels": []}
    manifest = save_checkpoint(args.out, model, config, origin=origin)
    size = config.model.encoder
    print(
        f"{args.out}: model {manifest['model_id']}, {size.layers} layers of {size.dim} dimensions, "
        f"{size.heads} heads, chunks of {config.model.chunk_s:g} s; its training tracks are unknown"
    )
    return 0
