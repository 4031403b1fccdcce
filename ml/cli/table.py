"""``stems table``: the LanceDB tables that queries search; and which model they use.

``stems promote`` takes a model that is not worse, ``stems rollback`` goes back to the champion
before.
"""

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
    """Add the verbs ``table``, with its actions, ``promote`` and ``rollback``."""
    _add_promote(verbs)
    _add_rollback(verbs)
    parser = verbs.add_parser(
        "table",
        description="Find, describe, export or drop the LanceDB tables that queries search.",
        epilog=examples(
            "stems table describe",
            "stems table export stems.parquet --where \"corpus = 'demo'\"",
        ),
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (text, act, words) in _ACTIONS.items():
        action = actions.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=examples(f"stems table {name}{words}"),
        )
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
    "path": ("print the database that lancedb.connect takes", _path, ""),
    "describe": (
        "print tables, versions, columns, rows by corpus, indices and sizes",
        _describe,
        " --model film",
    ),
    "optimize": ("join small files, index large tables, measure the index", _optimize, ""),
    "export": (
        "write a table to a Parquet or CSV file",
        _export,
        " stems.parquet --where \"corpus = 'demo'\"",
    ),
    "drop-model": (
        "list (and delete) the tables of a model; never the champion's, nor the one before it",
        _drop_model,
        " film --delete",
    ),
}
"""What it does, in words and in fact; and words of an example."""


def _database(args: argparse.Namespace, settings: Settings) -> tuple[str, str]:
    """Find the database of the model that was asked for, and the model in words."""
    from ml.artifacts import read_manifest
    from ml.retrieval.tables.database import database_uri
    from ml.training.models import find_checkpoint

    checkpoint = find_checkpoint(settings.layout, args.model, settings.tracking_uri)
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


def _add_promote(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "promote",
        description="Make a model the champion: its gallery must be complete, and it may not be "
        "worse than the present champion on the evaluation set, and must hear the mix (section "
        "promotion of the settings). A promotion that was stopped half-way is finished. Exit code "
        "1: refused.",
        epilog=examples("stems promote two-part --dry-run", "stems promote two-part"),
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a name (film), a checkpoint folder, a model_id, an MLflow run id (default: the "
        "first of training.presets)",
    )
    parser.add_argument(
        "--force", action="store_true", help="without comparing, deaf to the mix or not"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.set_defaults(run=run_promote)


def run_promote(args: argparse.Namespace, settings: Settings) -> int:
    """Promote, and say what became of it."""
    from ml.retrieval.champion.promotion import promote

    done = promote(settings, args.model, is_forced=args.force, is_dry_run=args.dry_run)
    print(f"dry run: {done.reason}" if args.dry_run else done.reason)
    if done.champion is None:
        print("there is no champion")
    else:
        version = done.champion.mlflow_version
        known = f", MLflow version {version}" if version else ""
        print(f"the champion is {done.champion.model_id}{known}")
    return int(done.outcome == "refused")


def _add_rollback(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "rollback",
        description="Make the previous champion the champion again, in champion.json and as "
        "MLflow's alias. The present one counts as withdrawn: it is promoted again only with "
        "stems promote --force. A second rollback undoes the first.",
        epilog=examples("stems rollback"),
    )
    parser.set_defaults(run=run_rollback)


def run_rollback(args: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - every verb's
    """Roll back, and say what was done."""
    from ml.retrieval.champion.promotion import roll_back

    done = roll_back(settings)
    print(
        f"{done.champion.model_id} is the champion again, {done.withdrawn.model_id} is withdrawn "
        f"(to take it back: stems promote {done.withdrawn.model_id} --force)"
    )
    if done.champion.mlflow_version:
        print(f"MLflow's alias names version {done.champion.mlflow_version}")
    for gap in done.gaps:
        print(f"queries will not find all: {gap}")
    return 0
