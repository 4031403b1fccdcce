"""``stems table``: the LanceDB tables that queries search."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ml import kinds
from ml.cli.options import add_model, examples
from ml.settings import Settings

if TYPE_CHECKING:
    from ml.retrieval.tables.inspect import TableDescription

_TABLES = {"stems": "stem_embeddings", "chunks": "chunk_embeddings"}


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb with its actions."""
    parser = verbs.add_parser(
        "table",
        description="Find, describe, export or drop the LanceDB tables that queries search.",
        epilog=examples(
            "stems table describe",
            "stems table export stems.parquet --where \"corpus = 'demo'\"",
        ),
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (text, act) in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        _add_arguments(name, action)
        action.set_defaults(run=run, act=act)


def _add_arguments(name: str, action: argparse.ArgumentParser) -> None:
    if name == "drop-model":
        action.add_argument("model", metavar="NAME|ID", help="model, or its id")
        action.add_argument("--delete", action="store_true", help="remove it; else only listed")
        return
    add_model(action)
    if name == "export":
        action.add_argument(
            "file", type=Path, metavar="FILE", help="ends in .parquet, or .csv (without vectors)"
        )
        action.add_argument(
            "--table", choices=_TABLES, default="stems", help="which (default: stems)"
        )
        action.add_argument("--where", help="only rows for which this holds: \"corpus = 'demo'\"")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do what was asked."""
    return args.act(args, settings)


def _path(args: argparse.Namespace, settings: Settings) -> int:
    print(_database(args, settings)[0])
    return 0


def _describe(args: argparse.Namespace, settings: Settings) -> int:
    from ml.retrieval.tables.inspect import describe_tables

    uri, model = _database(args, settings)
    print(f"{uri}\n{model}")
    for table in describe_tables(uri):
        _print_table(table)
    return 0


def _optimize(args: argparse.Namespace, settings: Settings) -> int:
    from ml.retrieval.tables.index import optimize_tables
    from ml.retrieval.tables.inspect import describe_tables

    uri, _ = _database(args, settings)
    describe_tables(uri)  # says so when there are none
    optimize_tables(uri)
    for table in describe_tables(uri):
        indices = f"{len(table.indices)} indices" if table.indices else "no index needed"
        print(f"{table.name}: version {table.version}, {table.rows:,d} rows, {indices}")
    return 0


def _export(args: argparse.Namespace, settings: Settings) -> int:
    from ml.retrieval.tables.inspect import export_table

    uri, _ = _database(args, settings)
    rows = export_table(uri, _TABLES[args.table], args.file.expanduser(), where=args.where)
    print(f"{args.file}: {rows:,d} rows")
    return 0


def _drop_model(args: argparse.Namespace, settings: Settings) -> int:
    from ml.retrieval.champion.champion import drop_model

    dropped = drop_model(settings.layout, args.model, delete=args.delete)
    for name, size in dropped.tables.items():
        print(f"{size:15,d}  {name}")
    total = f"{dropped.uri}: {sum(dropped.tables.values()):,d} bytes"
    hint = f"; delete with: stems table drop-model {args.model} --delete"
    print(f"{total}{' deleted' if args.delete else hint}")
    return 0


_ACTIONS = {
    "path": ("print the database that lancedb.connect takes", _path),
    "describe": ("print tables, versions, columns, rows by corpus, indices and sizes", _describe),
    "optimize": ("join small files, index large tables, measure the index", _optimize),
    "export": ("write a table to a Parquet or CSV file", _export),
    "drop-model": (
        "list (and delete) the tables of a model; never the champion's, nor the one before it",
        _drop_model,
    ),
}


def _database(args: argparse.Namespace, settings: Settings) -> tuple[str, str]:
    """Find the database of the model that was asked for, and the model in words."""
    from ml.artifacts import read_manifest
    from ml.retrieval.tables.database import database_uri
    from ml.training.models import find_checkpoint

    checkpoint = find_checkpoint(settings.layout, args.model)
    manifest = read_manifest(checkpoint, kinds.MODEL)
    uri = database_uri(settings.layout, manifest["model_id"])
    return uri, f"model {manifest['name']}, {manifest['model_id']}"


def _print_table(table: TableDescription) -> None:
    size = f"{table.stored_bytes:,d} bytes stored"
    print(f"\n{table.name}: version {table.version}, {table.rows} rows, {size}")
    for corpus, rows in table.rows_by_corpus.items():
        print(f"  {corpus}: {rows} rows")
    for column, kind in table.columns.items():
        print(f"  {column}: {kind}")
    for index in table.indices:
        print(
            f"  index {index.kind} on {index.column}: {index.rows} rows, "
            f"{index.unindexed_rows} not in it yet"
        )
    if table.tuning is not None:
        tuning = table.tuning
        print(
            f"  search visits {tuning.probes} of {tuning.partitions} partitions: recall "
            f"{tuning.recall:.3f} of the exact first ten, measured at {tuning.rows} rows"
        )
