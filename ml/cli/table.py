"""``stems table``: the LanceDB tables that queries search."""

from __future__ import annotations

import argparse

from ml.settings import Settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb with its actions."""
    parser = verbs.add_parser("table", help="where the searchable tables lie, what is in them")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    texts = {
        "path": "print the database that lancedb.connect takes",
        "describe": "print tables, versions, columns and rows by corpus",
    }
    for name, text in texts.items():
        action = actions.add_parser(name, help=text, description=f"{text.capitalize()}.")
        action.add_argument(
            "--model",
            metavar="NAME|PATH",
            help="model or checkpoint folder (default: the champion)",
        )
        action.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do what was asked."""
    from ml.artifacts import read_manifest
    from ml.models.stem_jepa import FORMAT_VERSION
    from ml.retrieval.champion import find_checkpoint
    from ml.retrieval.store import database_uri

    checkpoint = find_checkpoint(settings.layout, args.model)
    manifest = read_manifest(checkpoint, format_version=FORMAT_VERSION, made_by="stems train")
    uri = database_uri(settings.layout, manifest["model_id"])
    if args.action == "path":
        print(uri)
        return 0
    print(f"{uri}\nmodel {manifest['name']}, {manifest['model_id']}")
    _describe(uri)
    return 0


def _describe(uri: str) -> None:
    from ml.retrieval.store import describe_tables

    for table in describe_tables(uri):
        print(f"\n{table.name}: version {table.version}, {table.rows} rows")
        for corpus, rows in table.rows_by_corpus.items():
            print(f"  {corpus}: {rows} rows")
        for column, kind in table.columns.items():
            print(f"  {column}: {kind}")
