"""``stems shards``: make the training shards of a corpus, check them, push them to a URL."""

from __future__ import annotations

import argparse
import sys

from ml.cli.options import examples, state_text
from ml.processes import cores
from ml.settings import Settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb with its actions."""
    parser = verbs.add_parser(
        "shards",
        description="Make the training shards of a corpus, check them, copy them to a URL.",
        epilog=examples(
            "stems shards build demo --dry-run",
            "stems shards build demo",
            "stems shards push demo s3://bucket/prefix",
        ),
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser(
        "build",
        help="make the shards of a corpus",
        description="Cut a corpus into segments, leave silence out, write WebDataset shards. "
        "Shards that are up to date stay; an interrupted build goes on where it stopped; where "
        "labels alone have changed, audio is copied, not encoded again.",
        epilog=examples("stems shards build demo --dry-run", "stems shards build demo"),
    )
    build.add_argument("name", metavar="NAME", help="name of the corpus")
    build.add_argument(
        "--fresh", action="store_true", help="make every shard anew, in a compact plan"
    )
    build.add_argument(
        "--workers", type=_at_least_one, default=cores(), metavar="N", help="processes"
    )
    build.add_argument(
        "--dry-run", action="store_true", help="print hours, disk and time; make nothing"
    )
    build.set_defaults(run=run)
    inspect = actions.add_parser(
        "inspect",
        help="verify checksums; print hours, stems per label, dropped silence",
        description="Verify the checksum of every shard and print what is in them.",
        epilog=examples("stems shards inspect demo"),
    )
    inspect.add_argument("name", metavar="NAME", help="name of the corpus")
    inspect.set_defaults(run=run)
    _add_push(actions)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do what was asked; 1 when ``inspect`` finds a damaged shard."""
    settings.corpus(args.name)  # an unknown name is an error that lists the known ones
    if args.action == "inspect":
        return _inspect(args, settings)
    return _estimate(args, settings) if args.dry_run else _build(args, settings)


def _build(args: argparse.Namespace, settings: Settings) -> int:
    from ml.shards.build import build_configured

    artifact = build_configured(settings, args.name, workers=args.workers, fresh=args.fresh)
    summary = artifact.summary
    print(
        f"{state_text(artifact)}: "
        f"{summary['shards']} shards, {summary['tracks']} tracks, {summary['segments']} segments, "
        f"{summary['stem_hours']:.2f} h of stems"
    )
    return 0


def _estimate(args: argparse.Namespace, settings: Settings) -> int:
    from ml.shards.plan import describe_build, shard_config

    config = shard_config(settings.shards)
    print(
        describe_build(args.name, settings.layout, config, workers=args.workers, fresh=args.fresh)
    )
    return 0


def _inspect(args: argparse.Namespace, settings: Settings) -> int:
    from ml.shards.folders import built_folder
    from ml.shards.inspect import check_shards

    report = check_shards(built_folder(settings.layout, args.name))
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


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _add_push(actions: argparse._SubParsersAction) -> None:
    """Add the action to those of ``stems shards``."""
    parser = actions.add_parser(
        "push",
        help="copy the shards of a corpus to a URL",
        description="Copy the shards of a corpus below a URL, only what is not there yet; the "
        "manifest comes last. Endpoint and credentials come from the environment "
        "(AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).",
        epilog=examples("stems shards push demo s3://bucket/prefix"),
    )
    parser.add_argument("name", metavar="NAME", help="name of the corpus")
    parser.add_argument(
        "uri", metavar="URI", nargs="?", help="s3://bucket/prefix (default: shards.uri)"
    )
    parser.set_defaults(run=run_push)


def run_push(args: argparse.Namespace, settings: Settings) -> int:
    """Push."""
    from ml.shards.folders import push_shards

    settings.corpus(args.name)  # an unknown name is an error that lists the known ones
    uri = args.uri or settings.shards.uri
    if not uri:
        raise ValueError("no URI given and shards.uri is not set; expected s3://bucket/prefix")
    pushed = push_shards(settings.layout.shards(args.name), uri)
    print(
        f"{pushed.url}: {pushed.shards} shards, {pushed.sent} of them sent now "
        f"({pushed.sent_bytes / 1e6:.1f} MB)"
    )
    return 0
