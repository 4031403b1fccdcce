"""What ``make demo`` runs: demo songs, the whole asset graph, the scores, and what to do next.

``python -m pipelines.demo --help``. A new home gets the settings of the quick demo, or with
``--full`` those of the one whose figures the README gives. All else is as in ``dagster dev``: the
same jobs, the same home. What is up to date is reused; where all is, no run begins. Imports are
inside functions: processes that render songs import this module too.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml.settings import Settings
    from pipelines.jobs import Step

CORPORA = ("demo", "demo-plain", "demo-swapped")
"""Training and held-out songs; the latter without production character; with swapped ones."""
NOTE_NAME = "demo.json"
"""In a home: its ``demo_state`` when a demo had ended well, when that was, and what it said."""


def get_parser() -> argparse.ArgumentParser:
    """Make the parser of ``python -m pipelines.demo``."""
    from pipelines.home import run_options

    parser = argparse.ArgumentParser(
        parents=[run_options()],
        prog="python -m pipelines.demo",
        description="Build the demo corpus and everything that follows from it.",
    )
    parser.add_argument(
        "--full", action="store_true", help="400 training songs, and all steps of the presets"
    )
    parser.add_argument("--songs", type=int, help="training songs (default: demo.train_songs)")
    parser.add_argument("--heldout", type=int, help="held-out songs (default: demo.heldout_songs)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 done, 1 something failed, 2 wrong use."""
    from pipelines.home import run_command

    return run_command(get_parser(), install_and_run, arguments)


def install_and_run(args: argparse.Namespace) -> int:
    """Give a new home the settings of the demo, and build it; returns the exit code."""
    from ml.settings import load_settings
    from pipelines.home import install_home

    overrides = chosen_settings(args)
    install_home(load_settings(args.home, overrides), demo="full" if args.full else "quick")
    if args.full:
        refuse_changed_training(load_settings(args.home))
    return run_demo(args.home, overrides, workers=args.workers)


def run_demo(home: Path | None, overrides: dict[str, Any], *, workers: int = 0) -> int:
    """Build the demo in a home that has its configuration; returns the exit code."""
    from ml.settings import load_settings

    settings = load_settings(home, overrides)
    if said := said_of_what_is_current(settings):
        print(said)
        return 0
    from assets_def.resources import StemsHome  # brings Dagster
    from ml.retrieval.queries.example import example_outcome, example_query
    from ml.training.models import champion_path
    from pipelines.execute import conclusion, execute_in_home, scored_corpora
    from pipelines.run import conclude

    resource = StemsHome(home=str(settings.home), overrides=overrides, workers=workers)
    songs_s = build_songs(settings, resource.processes)
    outcomes = execute_in_home(resource, demo_steps(settings))
    has_answers = champion_path(settings.layout).is_file()
    query = None
    if has_answers and (example := example_query(settings, CORPORA[0])):
        query = f"{example.command}\n  {example_outcome(settings, example)}"
    code = conclude(settings, outcomes, timed=[("demo songs", songs_s)], query=query)
    if code == 0:
        note_state(settings, conclusion(settings, scored_corpora(outcomes), query=query))
    return code


def said_of_what_is_current(settings: "Settings") -> str:
    """Repeat what the last demo of a home said; empty where something has changed since."""
    from ml.artifacts import read_object

    path = settings.home / NOTE_NAME
    note = read_object(path) if path.is_file() else {}
    if not note.get("state") or note["state"] != demo_state(settings):
        return ""
    return (
        "everything is up to date: settings, program and files are as the demo left them "
        f"{note.get('ended')}\n{note.get('said')}"
    )


def note_state(settings: "Settings", said: str) -> None:
    """Note that a demo has ended well, and what it said."""
    from ml.artifacts import write_json

    ended = datetime.now().astimezone().isoformat(" ", "minutes")
    note = {"state": demo_state(settings), "ended": ended, "said": said}
    write_json(settings.home / NOTE_NAME, note)


def demo_state(settings: "Settings") -> str:
    """Digest what a demo depends on and what it makes; empty where part of that cannot be seen.

    Files count by path, size and time. Of Dagster and MLflow only their being there counts: they
    write whenever they are looked at.
    """
    from ml.tracks import CorpusError

    layout = settings.layout
    if "://" in f"{layout.shards_uri} {layout.lancedb_uri}":
        return ""
    there = [path.is_dir() for path in (layout.dagster_home / "history", layout.mlflow)]
    digest = hashlib.blake2b(f"{Path.cwd()} {there} {settings.model_dump_json()}".encode())
    try:
        for part in _parts_of_state(settings):
            digest.update(part)
    except (CorpusError, OSError):
        return ""  # what needs it says why
    return digest.hexdigest()


def _parts_of_state(settings: "Settings") -> Iterator[bytes]:
    """Yield the program, and fingerprints of the corpora and of the folders of artifacts."""
    from ml import kinds
    from ml.corpora.corpus import files_fingerprint

    package = Path(__file__).parents[1]
    for name in ("ml", "assets_def", "pipelines"):
        yield from (path.read_bytes() for path in sorted((package / name).rglob("*.py")))
    corpora = {*demo_corpora(settings), *settings.training.corpora, *settings.beats.scored}
    for corpus in map(settings.corpus, sorted(corpora)):
        yield files_fingerprint(corpus.kind, corpus.root, corpus.options).encode()
    made = {kind.folders.split("/")[0] for kind in kinds.KINDS} - {"corpora"}
    folders = [kinds.SHIPPED, *(settings.home / name for name in sorted(made))]
    for folder in filter(Path.is_dir, folders):
        yield files_fingerprint("folder", folder).encode()


def chosen_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Give the settings that the command line changes."""
    songs = {"train_songs": args.songs, "heldout_songs": args.heldout}
    demo = {key: value for key, value in songs.items() if value is not None}
    overrides: dict[str, Any] = {"demo": demo} if demo else {}
    if args.steps is not None:
        overrides["training"] = {"overrides": {"steps": args.steps}}
    return overrides


def refuse_changed_training(settings: "Settings") -> None:
    """Refuse a home whose settings change what the presets are.

    Raises:
        ValueError: says which, and what to do.
    """
    if changed := settings.training.overrides:
        raise ValueError(
            f"{settings.layout.config_path} changes training ({changed}), as the quick demo does; "
            "expected `overrides: {}`: change it there, or make the full demo in another home: "
            "STEMS_HOME=data-full make demo-full"
        )


def build_songs(settings: "Settings", workers: int) -> float:
    """Build the demo corpora of the settings; returns how long it took, in s."""
    from ml.corpora.demo.build import build_demo_corpora
    from ml.corpora.demo.songs import DemoConfig

    started_s = time.monotonic()
    config = DemoConfig(**settings.demo.model_dump())
    build_demo_corpora(
        settings.layout.corpora, config, corpora=demo_corpora(settings), workers=workers
    )
    return time.monotonic() - started_s


def demo_corpora(settings: "Settings") -> list[str]:
    """List the demo corpora of a home: the quick demo does without ``demo-swapped``.

    Raises:
        ValueError: ``demo`` is not among its corpora.
    """
    if CORPORA[0] not in settings.corpora:
        raise ValueError(
            f"{settings.layout.config_path} has no corpus {CORPORA[0]}; expected it for the demo: "
            "add it there, or make the demo in another home: STEMS_HOME=data-demo make demo"
        )
    return [name for name in CORPORA if name in settings.corpora]


def demo_steps(settings: "Settings") -> list["Step"]:
    """Plan the whole graph: shards for what is trained on, the rest for the demo corpora."""
    from pipelines.jobs import Step, beat_steps, evaluate_step, prepare_steps, train_step

    trained_on, corpora = settings.training.corpora, demo_corpora(settings)
    train = train_step(trained_on)
    return [
        *prepare_steps(dict.fromkeys((*corpora, *trained_on)), trained_on=trained_on),
        train,
        *(evaluate_step(name, needs=(f"prepare_corpus {name}", train.name)) for name in corpora),
        *beat_steps(settings, needs=(train.name,)),
        Step(job="write_report", needs=(train.name,)),
    ]


if __name__ == "__main__":
    sys.exit(main())
