"""``stems shards``: make the training shards of a corpus, check them."""

from __future__ import annotations

import argparse
import os
import sys

from ml.settings import Settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb with its two actions."""
    parser = verbs.add_parser("shards", help="make and check the training shards of a corpus")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser(
        "build",
        help="make the shards of a corpus",
        description="Cut a corpus into segments, leave silence out, write WebDataset shards. "
        "Shards that are up to date stay; an interrupted build goes on where it stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    build.add_argument("name", metavar="NAME", help="name of the corpus")
    build.add_argument(
        "--fresh", action="store_true", help="make every shard anew, in a compact plan"
    )
    build.add_argument(
        "--workers", type=_at_least_one, default=_cores(), metavar="N", help="processes"
    )
    build.set_defaults(run=run)
    inspect = actions.add_parser(
        "inspect",
        help="verify checksums; print hours, stems per label, dropped silence",
        description="Verify the checksum of every shard and print what is in them.",
    )
    inspect.add_argument("name", metavar="NAME", help="name of the corpus")
    inspect.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do what was asked; 1 when ``inspect`` finds a damaged shard."""
    settings.corpus(args.name)  # an unknown name is an error that lists the known ones
    return _build(args, settings) if args.action == "build" else _inspect(args, settings)


def _build(args: argparse.Namespace, settings: Settings) -> int:
    from ml.shards.writer import ShardConfig, build_shards

    config = ShardConfig(segment_s=settings.shards.segment_s, payload=settings.shards.payload)
    artifact = build_shards(
        args.name, settings.layout, config, workers=args.workers, fresh=args.fresh
    )
    summary = artifact.summary
    print(
        f"{artifact.path} {'is up to date' if artifact.reused else 'is made'}: "
        f"{summary['shards']} shards, {summary['tracks']} tracks, {summary['segments']} segments, "
        f"{summary['stem_hours']:.2f} h of stems"
    )
    return 0


def _inspect(args: argparse.Namespace, settings: Settings) -> int:
    from ml.shards.check import check_shards

    report = check_shards(settings.layout.shards(args.name))
    encoder = report.label_encoder
    print(f"{report.n_shards} shards, {report.n_bytes / 1e6:.1f} MB, labels by {encoder['name']}")
    columns = ("tracks", "segments", "hours", "stem_hours", "dropped_hours", "dropped_stem_hours")
    print("  ".join(["split".ljust(6), *(column.rjust(len(column)) for column in columns)]))
    for split in ("", *report.splits):
        values = [report.summary[f"{split}_{x}" if split else x] for x in columns]
        cells = [f"{v:g}".rjust(len(x)) for v, x in zip(values, columns, strict=True)]
        print("  ".join([(split or "all").ljust(6), *cells]))
    print("stems by label, one count a segment:")
    for label, count in report.stored_stems.items():
        print(f"{count:8d}  {label}")
    for problem in report.problems:
        print(problem, file=sys.stderr)
    if report.problems:
        print(f"make them again with: stems shards build {args.name} --fresh", file=sys.stderr)
        return 1
    print("every checksum is right")
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value
