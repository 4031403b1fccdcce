"""``stems beats``: where the beats of a recording are.

``stems evaluate beats``: beats by linear probes on frozen encoders (Table II).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.cli.options import (
    add_device,
    add_model,
    add_models,
    check_audio,
    examples,
    state_text,
)
from ml.cli.report import print_scores
from ml.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from ml.artifacts import Artifact


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
    from ml.beats.evaluate import tempo_bpm
    from ml.beats.tracker import open_tracker, write_click_track
    from ml.device import choose_device
    from ml.models.stem_jepa import load_model
    from ml.training.models import find_checkpoint

    checkpoint = find_checkpoint(settings.layout, args.model, settings.tracking_uri)
    model = load_model(checkpoint, str(choose_device(args.device)))
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


def add_beats(evaluations: argparse._SubParsersAction) -> None:
    """Add the evaluation."""
    parser = evaluations.add_parser(
        "beats",
        help="beats by linear probes on frozen encoders (Table II)",
        description="Train linear probes on the frozen encoders' features of the corpora in "
        "beats.corpora, and score beats on their held-out tracks and on beats.heldout: F-measure "
        "(±70 ms), CMLt and AMLt of a dynamic Bayesian network, the same of picked peaks "
        "(peak_…), and the average precision of frames; 95 %% intervals below. Beside them what "
        "needs no training. What is up to date is not done again.",
        epilog=examples("stems evaluate beats", "stems evaluate beats --corpus demo"),
    )
    parser.add_argument(
        "--corpus",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="which to score (default: beats.corpora and beats.heldout of the settings)",
    )
    add_models(parser, "or log-mel (default: beats.models)")
    parser.add_argument(
        "--layers",
        nargs="+",
        action="extend",
        type=int,
        metavar="N",
        help="of the encoders, -1 the last; validation tracks choose (default: beats.layers)",
    )
    parser.add_argument(
        "--trained-on",
        nargs="+",
        metavar="NAME",
        help="what probes are trained on (default: beats.corpora)",
    )
    parser.add_argument(
        "--min-bpm",
        type=float,
        metavar="BPM",
        help="add rows of a decoder that goes down to this tempo, beside those from 55",
    )
    parser.add_argument("--by-tempo", action="store_true", help="also by class of tempo")
    parser.add_argument(
        "--resamples", type=int, help="of the bootstrap (default: evaluation.bootstrap_resamples)"
    )
    add_device(parser)
    parser.set_defaults(run=run_evaluation)


def run_evaluation(args: argparse.Namespace, settings: Settings) -> int:
    """Make features, probes and scores as far as need be; print the tables."""
    from ml.beats.experiment import EVALUATION, PAIRED, build_beat_scores
    from ml.beats.feature_files import build_beat_features
    from ml.beats.features import beat_inputs
    from ml.beats.probe import ProbeConfig
    from ml.beats.probes import build_beat_probes
    from ml.device import choose_device
    from ml.scores.files import read_scores

    chosen, layout = settings.beats, settings.layout
    trained_on = tuple(args.trained_on or settings.beat_corpora())
    scored = args.corpus or dict.fromkeys((*trained_on, *chosen.heldout))
    sets = {name: _open_beats(name, settings) for name in dict.fromkeys((*trained_on, *scored))}
    device = str(choose_device(args.device))
    models, layers = args.models or chosen.models, args.layers or chosen.layers
    inputs = beat_inputs(layout, models, layers, device, settings.tracking_uri)
    for name in sets:
        for artifact in build_beat_features(name, inputs, layout):
            made = artifact.summary
            silent = f" ({made['silent_tracks']} silent left out)" if made["silent_tracks"] else ""
            _say(artifact, f"{made['tracks']} tracks{silent}, {made['hours']} h")
    of_probes = {name: sets[name] for name in trained_on}
    for source in inputs:
        artifact = build_beat_probes(source, of_probes, layout, ProbeConfig(seed=chosen.seed))
        _say(artifact, f"layer {artifact.summary['layer']}")
    for name in scored:
        artifact = build_beat_scores(
            name,
            sets[name],
            inputs,
            layout,
            min_bpm=args.min_bpm,
            resamples=args.resamples or settings.evaluation.bootstrap_resamples,
            seed=settings.evaluation.seed,
        )
        _say(artifact, f"{artifact.summary['tracks']} tracks")
        for evaluation in (EVALUATION, PAIRED):
            print()
            print_scores(read_scores(layout, evaluation=evaluation, corpus=name))
        _print_published(sets[name].name, {beats.name for beats in of_probes.values()})
        if args.by_tempo:
            _print_tempi(artifact)
    return 0


def _open_beats(name: str, settings: Settings) -> Any:
    """Open the beats of a corpus, with its ``corpus_tracks`` built."""
    from ml.beats.beat_sets import open_beat_set
    from ml.corpora.registration import open_registered
    from ml.corpora.table import build_corpus_tracks

    chosen = settings.corpus(name)
    beats = open_beat_set(name, chosen.kind, chosen.root, chosen.options)
    counts = ", ".join(f"{count} {key.replace('_', ' ')}" for key, count in beats.counts.items())
    print(f"{name}: {counts}")
    for problem in beats.problems[:10]:
        print(f"  {problem}")
    build_corpus_tracks(name, open_registered(settings, name), settings.layout)
    return beats


def _say(artifact: Artifact, what: str) -> None:
    model = f"{artifact.summary['model']}: " if "model" in artifact.summary else ""
    print(f"{model}{state_text(artifact)}: {what}")


def _print_published(set_name: str, trained_on: Collection[str]) -> None:
    from ml.beats.evaluate import PUBLISHED, PUBLISHED_SETS

    rows = [row for row in PUBLISHED if row.set_name == set_name]
    if rows and set(trained_on) != PUBLISHED_SETS:
        print(
            f"No published rows: these probes are trained on {', '.join(sorted(trained_on))}, "
            f"theirs on {', '.join(sorted(PUBLISHED_SETS))}"
        )
        return
    if rows:
        print("Published (Riou et al., Table II), F-measure / CMLt / AMLt in percent:")
    for row in rows:
        figures = (row.f_measure, row.cmlt, row.amlt)
        print(f"  {row.system}: {' / '.join(f'{100 * value:.1f}' for value in figures)}")


def _print_tempi(artifact: Artifact) -> None:
    import polars as pl

    from ml.beats.evaluate import TEMPO_CLASSES, tempo_class
    from ml.beats.experiment import TRACKS
    from ml.parquet import read_frame

    table = read_frame(artifact.path / TRACKS)
    classes = [tempo_class(bpm) for bpm in table["tempo_bpm"]]
    table = table.with_columns(pl.Series("tempo", classes, dtype=pl.String))
    print("By annotated tempo in bpm, F-measure / CMLt / AMLt of the network:")
    for tempo in TEMPO_CLASSES:
        part = table.filter(pl.col("tempo") == tempo)
        if part.is_empty():
            continue
        print(f"  {tempo}: {part['track_id'].n_unique()} tracks")
        for (model,), rows in part.group_by("model", maintain_order=True):
            print(f"    {model}: {_means(rows, ('f_measure', 'cmlt', 'amlt'))}")


def _means(table: Any, metrics: Sequence[str]) -> str:
    return " / ".join(f"{table[metric].mean():.1f}" for metric in metrics)
