"""``stems labels``: the conditions of a corpus's labels, and labels for what has none."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ml.cli.options import add_device, examples, state_text
from ml.settings import Settings

HOST_VARIABLE = "HF_ENDPOINT"
"""The hub's own variable for another server with the same paths."""


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb with its actions."""
    parser = verbs.add_parser(
        "labels",
        description="Encode the labels of a corpus, fetch CLAP, propose labels for what has none.",
        epilog=examples("stems labels build demo", "stems labels suggest mine --out mine.csv"),
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_build(actions)
    _add_fetch(actions)
    _add_suggest(actions)


def _add_build(actions: argparse._SubParsersAction) -> None:
    build = actions.add_parser(
        "build",
        help="encode every label of a corpus",
        description="Encode every label of a corpus with the label encoder of the settings. "
        "Labels that are on disk already are taken over.",
        epilog=examples("stems labels build demo"),
    )
    build.add_argument("name", metavar="NAME", help="name of the corpus")
    build.set_defaults(run=run_build)


def _add_fetch(actions: argparse._SubParsersAction) -> None:
    fetch = actions.add_parser(
        "fetch",
        help="download CLAP (2.4 GB), once",
        description="Download LAION's music checkpoint of CLAP and RoBERTa's vocabulary to "
        "models/clap in STEMS_HOME, and check their hashes. A download that broke off goes on "
        "where it stopped. Then set label_encoder.name to clap to train with it.",
        epilog=examples("stems labels fetch"),
    )
    fetch.add_argument(
        "--mirror",
        metavar="URL",
        help=f"server with the hub's paths (default: {HOST_VARIABLE}, else the hub)",
    )
    fetch.set_defaults(run=run_fetch)


def _add_suggest(actions: argparse._SubParsersAction) -> None:
    suggest = actions.add_parser(
        "suggest",
        help="propose labels for unlabelled stems, by ear of CLAP",
        description="Write a CSV that lists every stem of a corpus; those without labels get "
        "proposals from the taxonomy, nearest first. Copy what is right into the column labels, "
        "then add the CSV with: stems corpus add NAME manifest CSV. The corpus stays as it is.",
        epilog=examples("stems labels suggest mine --out mine.csv"),
    )
    suggest.add_argument("name", metavar="CORPUS", help="name of the corpus")
    suggest.add_argument(
        "--out", type=Path, metavar="CSV", help="default: labels/CORPUS-suggested.csv in STEMS_HOME"
    )
    suggest.add_argument("--top", type=int, default=3, metavar="N", help="proposals a stem")
    add_device(suggest)
    suggest.set_defaults(run=run_suggest)


def run_build(args: argparse.Namespace, settings: Settings) -> int:
    """Encode the labels of a corpus."""
    from ml.corpora.label_embeddings import build_label_embeddings
    from ml.labels.encoders import label_encoder_of

    settings.corpus(args.name)  # an unknown name is an error that lists the known ones
    encoder = label_encoder_of(settings)
    artifact = build_label_embeddings(args.name, settings.layout, encoder)
    summary = artifact.summary
    print(f"{state_text(artifact)}: {summary['texts']} texts by {summary['encoder']}")
    return 0


def run_fetch(args: argparse.Namespace, settings: Settings) -> int:
    """Download CLAP."""
    from ml.labels.clap_files import HUB, fetch_clap

    host = args.mirror or os.environ.get(HOST_VARIABLE) or HUB
    if not host.startswith(("https://", "http://")):
        raise ValueError(f"{host!r} is no address of a server; expected https://…")
    artifact = fetch_clap(settings.layout.clap, host=host)
    print(f"{state_text(artifact)}:")
    for name, sha256 in artifact.summary.items():
        print(f"  {sha256}  {name}")
    if settings.label_encoder.name != "clap":
        path = settings.layout.config_path
        print(f"to condition with it, write label_encoder: {{name: clap}} into {path}")
    return 0


def run_suggest(args: argparse.Namespace, settings: Settings) -> int:
    """Propose labels."""
    from ml.device import choose_device
    from ml.labels.clap_files import clap_files_of
    from ml.retrieval.embeddings.label_suggestions import suggest_labels

    settings.corpus(args.name)
    out = args.out or settings.layout.labels(f"{args.name}-suggested").with_suffix(".csv")
    summary = suggest_labels(
        args.name,
        settings.layout,
        clap_files_of(settings),
        out,
        top=args.top,
        device=str(choose_device(args.device)),
    )
    print(
        f"{out} is made: {summary['stems']} stems, {summary['unlabelled']} without labels, "
        f"{summary['suggested']} with proposals ({summary['silent']} silent)"
    )
    return 0
