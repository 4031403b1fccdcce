"""``stems beats``: where the beats of a recording are."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ml.cli.options import add_device, add_model, check_audio, examples
from ml.settings import Settings

if TYPE_CHECKING:
    import numpy as np


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "beats",
        description="Print the beats of a recording in seconds, one a line, found by a linear "
        "probe on a trained encoder (stems evaluate beats trains it) and a dynamic Bayesian "
        "network of 55 to 215 bpm.",
        epilog=examples("stems beats song.wav --click clicks.wav"),
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="audio file of any kind and rate")
    add_model(parser)
    parser.add_argument("--out", type=Path, metavar="TXT", help="write the beats to this file")
    parser.add_argument(
        "--click", type=Path, metavar="WAV", help="write the recording with clicks on its beats"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    add_device(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Find the beats, write and print them."""
    _check_targets(args.file, args.out, args.click)
    check_audio(args.file)
    from ml.artifacts import write_aside
    from ml.audio.files import read_audio
    from ml.beats.scores import tempo_bpm
    from ml.beats.tracker import open_tracker, write_click_track
    from ml.device import choose_device
    from ml.models.stem_jepa import load_model
    from ml.training.models import find_checkpoint

    model = load_model(
        find_checkpoint(settings.layout, args.model), str(choose_device(args.device))
    )
    tracker = open_tracker(settings.layout, model)
    beats = tracker(read_audio(args.file, rate_hz=tracker.rate_hz))
    if not len(beats):
        print(f"{args.file}: no beats were found", file=sys.stderr)
    if args.out:
        with write_aside(args.out) as aside:
            aside.write_text(_lines(beats))
    if args.click:
        write_click_track(args.click, args.file, beats)
    if args.json:
        tempo = tempo_bpm(beats) if len(beats) > 1 else None
        values = {"file": str(args.file), "model": model.name, "model_id": model.model_id}
        values |= {"tempo_bpm": tempo and round(tempo, 2), "beats_s": beats.round(3).tolist()}
        print(json.dumps(values, indent=1))
    elif args.out is None:
        print(_lines(beats), end="")
    else:
        print(f"{args.out}: {len(beats)} beats")
    return 0


def _check_targets(recording: Path, *targets: Path | None) -> None:
    for target in targets:
        if target is None:
            continue
        if target.resolve() == recording.resolve():
            raise ValueError(f"{target} is the recording itself; name another file to write")
        if not target.parent.is_dir():
            raise ValueError(f"{target.parent} is not a folder; make it, or name another file")


def _lines(beats: np.ndarray) -> str:
    return "".join(f"{time:.3f}\n" for time in beats)
