"""``stems shards push``: the shards of a corpus to a URL. An action of ``ml.cli.shards``."""

from __future__ import annotations

import argparse

from ml.settings import Settings


def add_action(actions: argparse._SubParsersAction) -> None:
    """Add the action to those of ``stems shards``."""
    parser = actions.add_parser(
        "push",
        help="copy the shards of a corpus to a URL",
        description="Copy the shards of a corpus below a URL, only what is not there yet; the "
        "manifest comes last. Endpoint and credentials come from the environment "
        "(AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="name of the corpus")
    parser.add_argument(
        "uri", metavar="URI", nargs="?", help="s3://bucket/prefix (default: settings: shards.uri)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Push."""
    from ml.shards.push import push_shards

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
