"""``stems migrate``: artifacts of other formats named, and a moved home put in order."""

from __future__ import annotations

import argparse

from ml.settings import Settings

FAILED = 1


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "migrate",
        help="name artifacts of other formats; mend a home that was moved",
        description="Look at the format of every artifact of the home, and name those that this "
        "program does not read, with the command that makes them again. "
        "In a home that was moved or copied, MLflow looks for artifacts here from now on. "
        "The databases of Dagster and MLflow have commands of their own; make migrate runs all.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Say what has another format; 1 when there is something."""
    from ml.upkeep.migrate import adopt_artifacts, other_formats

    found = other_formats(settings.layout)
    for artifact in found:
        print(
            f"{artifact.folder.relative_to(settings.layout.home)}: format {artifact.version}, "
            f"expected {artifact.kind.format_version}; make it again with: "
            f"{artifact.kind.remedy(artifact.folder)}"
        )
    for address, runs in adopt_artifacts(settings.layout, dry_run=args.dry_run).items():
        would = "would be" if args.dry_run else "are"
        print(f"mlflow: artifacts of {runs} runs {would} looked for here, no more in {address}")
    print(f"{len(found)} artifacts have another format")
    return FAILED if found else 0
