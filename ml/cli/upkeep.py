"""The upkeep of a home: ``stems config``, ``stems gc`` and ``stems migrate``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ml.cli.options import count_text, examples
from ml.settings import Settings, explain_settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs ``config``, ``gc`` and ``migrate``."""
    _add_config(verbs)
    _add_gc(verbs)
    _add_migrate(verbs)


def _add_config(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "config",
        description="Print every setting, its value, and whether a default, config.yaml, or the "
        "environment (STEMS_TRAINING__SEED=1) set it.",
        epilog=examples("stems config show"),
    )
    parser.add_argument("action", choices=["show"], help="what to do")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run_config)


def run_config(args: argparse.Namespace, settings: Settings) -> int:
    """Print one line a setting."""
    rows = explain_settings(settings)
    if args.json:
        print(json.dumps([dict(zip(("key", "value", "source"), row, strict=True)) for row in rows]))
        return 0
    width = max(len(key) for key, _, _ in rows)
    for key, value, source in rows:
        print(f"{key:<{width}}  {json.dumps(value)}  ({source})")
    return 0


def _add_gc(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "gc",
        description="List shards that no manifest, checkpoint or unfinished run names, "
        "temporaries of processes that ended, embeddings and databases of models that no run "
        "holds, and audio rendered from MIDI files beyond midi.keep_gb, with their sizes and why. "
        "Nothing is deleted without --delete.",
        epilog=examples("stems gc", "stems gc --delete"),
    )
    parser.add_argument(
        "--remote",
        action="store_true",
        help="look at shards at a URL (shards.uri) too; only if no other home trains from there",
    )
    parser.add_argument("--delete", action="store_true", help="delete what is listed")
    parser.set_defaults(run=run_gc)


def run_gc(args: argparse.Namespace, settings: Settings) -> int:
    """List leftovers, and delete them if asked."""
    from ml.upkeep import collect_leftovers

    leftovers = collect_leftovers(settings.layout, delete=args.delete, has_remote=args.remote)
    for leftover in leftovers.found:
        path = leftover.path
        if isinstance(path, Path):
            path = path.relative_to(settings.layout.home)
        print(f"{leftover.n_bytes:15,d}  {path}: {leftover.reason}")
    for sentence in leftovers.kept:
        print(f"kept  {sentence}")
    total = f"{count_text(len(leftovers.found), 'leftover')}, {leftovers.n_bytes:,d} bytes"
    print(f"{total}{' deleted' if args.delete else '; delete with: stems gc --delete'}")
    return 0


def _add_migrate(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "migrate",
        description="Look at the format of every artifact of the home, and name those that this "
        "program does not read, with the command that makes them again. "
        "In a home that was moved or copied, MLflow looks for artifacts here from now on (as it "
        "does anyway once something is tracked here). "
        "The databases of Dagster and MLflow have commands of their own; make migrate runs all.",
        epilog=examples("stems migrate --dry-run"),
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.set_defaults(run=run_migrate)


def run_migrate(args: argparse.Namespace, settings: Settings) -> int:
    """Say what has another format; 1 when there is something."""
    from ml.artifacts import other_formats
    from ml.mlflow_store import mend_moved_store

    others = list(other_formats(settings.layout))
    for folder, kind, version in others:
        print(
            f"{folder.relative_to(settings.layout.home)}: format {version}, expected "
            f"{kind.format_version}; make it again with: {kind.remedy(folder)}"
        )
    for address, runs in mend_moved_store(settings.layout, dry_run=args.dry_run).items():
        would = "would be" if args.dry_run else "are"
        print(f"mlflow: artifacts of {runs} runs {would} looked for here, no more in {address}")
    print(f"{len(others)} artifacts have another format")
    return int(bool(others))
