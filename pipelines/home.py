"""What a home needs before Dagster runs in it: configuration files and registered corpora.

``python -m pipelines.home`` prepares ``STEMS_HOME`` (``make dev`` does so).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import dagster as dg

    from ml.settings import Settings

TEMPLATES = Path(__file__).parent
_FULL_DEMO = {"  payload: flac": "  payload: pcm16"}
"""In the ``config.yaml`` of a demo: audio uncompressed, twice the size, faster to read."""
QUICK = {"steps": 100, "batch_size": 8, "optimizer.warmup_steps": 20}
"""Training of the quick demo, both phases from ``starter``: it shows how, and is not worth keeping.
Many small steps suit ``film``, whose term counts no negatives: of 302 stems R@10 is 28 % after
these, 23 % after 25 steps of 32 pairs, and 5 % where its predictor begins at random."""
QUICK_SONGS = {"train_songs": 96, "heldout_songs": 60, "heldout_s": 8.0}
"""Held-out songs are as many as in the full demo, so that figures are of as many stems."""
_QUICK_DEMO = _FULL_DEMO | {
    "  demo-swapped:\n    kind: demo\n    root: corpora/demo-swapped\n": "",
    "  train_songs: 400": f"  train_songs: {QUICK_SONGS['train_songs']}  # make demo-full: 400",
    "  heldout_s: 30.0": f"  heldout_s: {QUICK_SONGS['heldout_s']}  # make demo-full: 30.0",
    "  start: null": "  start: starter  # make demo-full: null",
    "  overrides: {}": "  # Minutes' worth; make demo-full has {}: the presets' own numbers.\n"
    f"  overrides: {{{', '.join(f'{key}: {value}' for key, value in QUICK.items())}}}",
}


def run_options() -> argparse.ArgumentParser:
    """Make the options of everything that runs in a home, for ``parents`` of a parser."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--home", type=Path, help="default: STEMS_HOME, else ./data")
    parser.add_argument("--steps", type=int, help="training steps a phase (default: of the size)")
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one a core)")
    return parser


def run_command(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], int],
    arguments: Sequence[str] | None,
) -> int:
    """Do the work that a command line asks for; what a user can mend ends in one sentence.

    Args:
        parser: of the command line.
        work: gets the options, returns the exit code: 0 done, 1 something failed.
        arguments: None: those of this process.

    Raises:
        SystemExit: wrong use (2); another process is at it, or it was stopped (1).
    """
    from ml.locks import LockedError
    from ml.progress import set_up_logging

    set_up_logging()
    args = parser.parse_args(arguments)
    try:
        return work(args)
    except LockedError as error:
        sys.exit(f"{parser.prog}: {error}")
    except ValueError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where it was")


def install_home(
    settings: "Settings", *, demo: Literal["quick", "full"] | None = None
) -> list[Path]:
    """Put ``config.yaml`` and ``dagster/dagster.yaml`` where they are missing.

    Args:
        settings: of the home.
        demo: write the configuration of a demo.

    Returns:
        The files that were written.

    Raises:
        SettingsError: Dagster can keep no database in this folder.
    """
    from ml.artifacts import write_aside
    from ml.plain import no_database_at
    from ml.settings import SettingsError

    layout = settings.layout
    if refusal := no_database_at(layout.home):
        raise SettingsError(refusal)
    config = (TEMPLATES / "config.yaml").read_text(encoding="utf-8")
    for default, changed in {"quick": _QUICK_DEMO, "full": _FULL_DEMO, None: {}}[demo].items():
        config = config.replace(default, changed)
    texts = {
        layout.config_path: config,
        layout.dagster_home / "dagster.yaml": (TEMPLATES / "dagster.yaml").read_text("utf-8"),
    }
    missing = {path: text for path, text in texts.items() if not path.exists()}
    for path, text in missing.items():
        with write_aside(path) as aside:
            aside.write_text(text, encoding="utf-8")
    return list(missing)


def open_instance(settings: "Settings") -> "dg.DagsterInstance":
    """Open the home's Dagster instance, with the corpora of the settings as partitions.

    For runs in this process: output goes to the terminal as it is (Dagster would redirect it to
    files and follow them, which no progress bar survives); events are recorded as always.
    """
    import dagster as dg
    from dagster._core.instance.ref import InstanceRef

    no_capture = {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
    folder = str(settings.layout.dagster_home)
    reference = InstanceRef.from_dir(folder, overrides={"compute_logs": no_capture})
    instance = dg.DagsterInstance.from_ref(reference)
    if missing := missing_corpora(settings, instance):
        instance.add_dynamic_partitions("corpus", missing)
    return instance


def missing_corpora(settings: "Settings", instance: "dg.DagsterInstance") -> list[str]:
    """List corpora of the settings that are no partition yet, in the order of the settings."""
    registered = set(instance.get_dynamic_partitions("corpus"))
    return [name for name in settings.corpora if name not in registered]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare a home; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.home", description=__doc__)
    parser.add_argument("--home", type=Path, help="default: STEMS_HOME, else ./data")
    return run_command(parser, _prepare, arguments)


def _prepare(args: argparse.Namespace) -> int:
    from ml.settings import load_settings

    settings = load_settings(args.home)
    install_home(settings)  # what it writes changes no setting
    with open_instance(settings):
        return 0


if __name__ == "__main__":
    sys.exit(main())
