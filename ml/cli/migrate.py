"""``stems migrate``: older formats brought to the present one, and a moved home in order."""

from __future__ import annotations

import argparse
from collections import Counter

from ml.settings import Settings

FAILED = 1


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "migrate",
        help="bring artifacts of older formats to the present one",
        description="Look at the format of every artifact of the home, and rewrite what is older "
        "where that can be done; the others are named with the command that makes them again. "
        "In a home that was moved or copied, MLflow looks for artifacts here from now on. "
        "The databases of Dagster and MLflow have commands of their own; make migrate runs all.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Migrate; 1 when something is newer than this program or cannot be read."""
    from ml.upkeep.migrations import migrate
    from ml.upkeep.moved_store import adopt_artifacts

    found = migrate(settings.layout, dry_run=args.dry_run)
    for artifact in found:
        path, kind = artifact.folder.relative_to(settings.layout.home), artifact.kind
        formats = f"format {artifact.version}, this program writes {kind.version}"
        sentences = {
            "current": "",
            "upgraded": f"{formats}: {'would be ' if args.dry_run else ''}upgraded",
            "older": f"{formats}: make it again with: {kind.remedy}",
            "newer": f"{formats}: update the program",
            "unreadable": f"its manifest names no format: make it again with: {kind.remedy}",
        }
        if sentence := sentences[artifact.outcome]:
            print(f"{path}: {sentence}")
    for address, runs in adopt_artifacts(settings.layout, dry_run=args.dry_run).items():
        would = "would be" if args.dry_run else "are"
        print(f"mlflow: artifacts of {runs} runs {would} looked for here, no more in {address}")
    counts = Counter(artifact.outcome for artifact in found)
    parts = [f"{n} {outcome}" for outcome, n in sorted(counts.items())]
    print(f"{len(found)} artifacts: {', '.join(parts)}" if found else "no artifacts yet")
    return FAILED if counts["newer"] + counts["unreadable"] else 0
