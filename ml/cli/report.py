"""``stems report``: write the HTML report."""

from __future__ import annotations

import argparse

from ml import kinds
from ml.settings import Settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "report",
        help="write the HTML report",
        description="Write one self-contained HTML page: what was trained on what, loss curves, "
        "scores with intervals, figures, and sample queries to listen to. Reused when nothing "
        "has changed.",
    )
    parser.add_argument(
        "--title", default="Stem retrieval report", help="title of the page (default: %(default)s)"
    )
    parser.add_argument(
        "--samples-of",
        metavar="CORPUS",
        help="corpus whose sample queries can be listened to (default: the first with scores)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=10,
        metavar="N",
        help="number of sample queries (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do what was asked."""
    from ml.artifacts import read_manifest
    from ml.reports.report import PAGE_NAME, TRACKING_URL, build_report

    if args.samples < 0:
        raise ValueError(f"--samples is {args.samples}; expected 0 or more")
    uri = settings.tracking.uri or ""
    artifact = build_report(
        settings.layout,
        title=args.title,
        tracking_url=uri if uri.startswith(("http://", "https://")) else TRACKING_URL,
        samples_of=args.samples_of,
        n_samples=args.samples,
    )
    state = "is up to date" if artifact.reused else "is written"
    print(f"{artifact.path / PAGE_NAME} {state} ({artifact.summary['megabytes']} MB)")
    manifest = read_manifest(artifact.path, kinds.REPORT)
    for sentence in manifest["missing"]:
        print(f"  {sentence}")
    return 0
