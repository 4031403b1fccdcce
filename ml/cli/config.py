"""``stems config``: each setting and where it came from."""

from __future__ import annotations

import argparse
import json

from ml.settings import Settings, explain_settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser("config", help="show settings and where each came from")
    parser.add_argument("action", choices=["show"], help="what to do")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print one line a setting."""
    rows = explain_settings(settings)
    if args.json:
        print(json.dumps([dict(zip(("key", "value", "source"), row, strict=True)) for row in rows]))
        return 0
    width = max(len(key) for key, _, _ in rows)
    for key, value, source in rows:
        print(f"{key:<{width}}  {json.dumps(value)}  ({source})")
    return 0
