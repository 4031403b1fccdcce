"""``stems labels``: compute the conditions of a corpus's labels."""

from __future__ import annotations

import argparse

from ml.settings import Settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb with its action."""
    parser = verbs.add_parser("labels", help="compute the conditions of a corpus's labels")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser(
        "build",
        help="encode every label of a corpus",
        description="Encode every label of a corpus with the label encoder of the settings. "
        "Labels that are on disk already are taken over.",
    )
    build.add_argument("name", metavar="NAME", help="name of the corpus")
    build.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do what was asked."""
    from ml.corpora.labels import build_label_embeddings
    from ml.models.label_encoders import build_label_encoder

    settings.corpus(args.name)  # an unknown name is an error that lists the known ones
    encoder = build_label_encoder(settings.label_encoder.name)
    artifact = build_label_embeddings(args.name, settings.layout, encoder)
    state = "is up to date" if artifact.reused else "is made"
    summary = artifact.summary
    print(f"{artifact.path} {state}: {summary['texts']} texts by {summary['encoder']}")
    return 0
