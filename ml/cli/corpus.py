"""``stems corpus``: look into a corpus, add it to the settings, build its table; ``stems demo``."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml import kinds
from ml.cli.options import count_text, examples, state_text
from ml.corpora.corpus import kinds_help
from ml.processes import cores
from ml.settings import Settings

if TYPE_CHECKING:
    from ml.settings import Settings
    from ml.tracks import Corpus

_COLUMNS = (
    *("track", "stem", "labels", "s", "Hz", "ch"),
    *("peak dBFS", "rms dBFS", "active", "problem"),
)
_RIGHT = frozenset(("stems", "s", "Hz", "ch", "peak dBFS", "rms dBFS", "active"))


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs ``corpus``, with its actions, and ``demo``."""
    _add_demo(verbs)
    parser = verbs.add_parser(
        "corpus",
        description="Look into a corpus, name it in config.yaml, scan it into a table.",
        epilog=examples(
            "stems corpus inspect folder ~/multitracks    # writes nothing",
            "stems corpus add mine folder ~/multitracks",
            "stems corpus build mine",
        ),
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = _action(
        actions,
        "inspect",
        "print labels, lengths, levels and problems of all stems",
        "stems corpus inspect demo",
        "stems corpus inspect folder ~/multitracks --option labels=none",
    )
    inspect.add_argument("target", metavar="NAME|KIND", help="corpus of the settings, or a kind")
    inspect.add_argument("root", nargs="?", metavar="ROOT", help="its root, after a kind")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    _add_workers(inspect)
    _add_options(inspect)
    add = _action(
        actions,
        "add",
        "add a corpus to config.yaml",
        "stems corpus add mine folder ~/multitracks",
        "stems corpus add mine manifest stems.csv",
    )
    add.add_argument("name", metavar="NAME", help="its name from now on")
    add.add_argument("kind", metavar="KIND", help=kinds_help())
    add.add_argument("root", metavar="ROOT", help="its folder, or the CSV")
    _add_options(add)
    build = _action(
        actions, "build", "scan a corpus into its corpus_tracks table", "stems corpus build mine"
    )
    build.add_argument("name", metavar="NAME", help="name of the corpus")
    _add_workers(build)
    remove = _action(
        actions,
        "remove",
        "list (and remove) what was made of a corpus; its audio stays",
        "stems corpus remove mine",
        "stems corpus remove mine --delete",
    )
    remove.add_argument("name", metavar="NAME", help="name of the corpus")
    remove.add_argument("--delete", action="store_true", help="remove it, also from config.yaml")
    _action(actions, "list", "list the corpora of the settings", "stems corpus list")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do what was asked."""
    return _ACTIONS[args.action](args, settings)


def _action(
    actions: argparse._SubParsersAction, name: str, text: str, *lines: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=examples(*lines)
    )
    parser.set_defaults(run=run)
    return parser


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=cores(), metavar="N", help="processes")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--option",
        action="append",
        default=argparse.SUPPRESS,
        type=_option,
        dest="options",
        metavar="KEY=VALUE",
        help="option of the reader, such as labels=none for a folder; true and false are values",
    )


def _option(text: str) -> tuple[str, str | bool]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, {"true": True, "false": False}.get(value, value)


def _inspect(args: argparse.Namespace, settings: Settings) -> int:
    from ml.corpora.corpus import notes_of
    from ml.corpora.scan import count_problems, listed_tracks, scan_stems
    from ml.corpora.table import summarize, table_rows

    corpus = _open(args, settings)
    tracks = listed_tracks(corpus)
    stems = [stem for track in tracks for stem in track.stems]
    measured = scan_stems(stems, workers=args.workers)
    scans = {stem.stem_id: scan for stem, scan in zip(stems, measured, strict=True)}
    rows = table_rows(args.target, tracks, scans)
    summary = summarize(rows) | _counts(rows)
    if args.json:
        print(json.dumps({"summary": summary, "stems": rows}, indent=1, allow_nan=False))
        for note in notes_of(corpus):
            print(note, file=sys.stderr)
        return 0
    _print_table(_COLUMNS, [_cells(row) for row in rows])
    print(f"{_totals(summary)}; {_counted(summary)}")
    for note in notes_of(corpus):
        print(note)
    if problems := count_problems(row["problem"] for row in rows):
        rows_of_kinds = [(str(count), kind, remedy) for kind, count, remedy in problems]
        _print_table(("stems", "problem", "what to do"), rows_of_kinds)
    return 0


def _open(args: argparse.Namespace, settings: Settings) -> Corpus:
    from ml.corpora.corpus import open_corpus
    from ml.corpora.registration import open_registered

    options = dict(getattr(args, "options", ()))
    if args.root is not None:
        return open_corpus(args.target, args.root, **options)
    return open_registered(settings, args.target, **options)


def _add(args: argparse.Namespace, settings: Settings) -> int:
    from ml.corpora.corpus import open_corpus
    from ml.corpora.registration import add_corpus
    from ml.corpora.scan import listed_tracks

    options = dict(getattr(args, "options", ()))
    corpus = open_corpus(args.kind, args.root, **options)
    tracks = count_text(len(listed_tracks(corpus)), "track")
    root = Path(args.root).expanduser().resolve()
    path = add_corpus(settings, args.name, kind=args.kind, root=root, options=options)
    print(f"{args.name} ({tracks}) is in {path}; next: stems corpus build {args.name}")
    return 0


def _build(args: argparse.Namespace, settings: Settings) -> int:
    from ml.corpora.corpus import notes_of
    from ml.corpora.registration import open_registered, render_missing
    from ml.corpora.table import build_corpus_tracks, read_corpus_tracks

    render_missing(settings, args.name, args.workers)
    corpus = open_registered(settings, args.name)
    artifact = build_corpus_tracks(args.name, corpus, settings.layout, workers=args.workers)
    for problem in read_corpus_tracks(settings.layout, args.name)["problem"].drop_nulls():
        print(problem, file=sys.stderr)
    for note in notes_of(corpus):
        print(note, file=sys.stderr)
    print(f"{state_text(artifact)}: {_totals(artifact.summary)}")
    return 0


def _remove(args: argparse.Namespace, settings: Settings) -> int:
    from ml.corpora.registration import drop_corpus
    from ml.upkeep import remove_corpus

    removal = remove_corpus(settings, args.name)
    path = drop_corpus(settings, args.name) if args.delete else None
    if args.delete:
        remove_corpus(settings, args.name, delete=True)
    for uri, rows in removal.rows.items():
        print(f"{count_text(rows, 'row')} of {uri}")
    for folder in removal.folders:
        print(folder)
    for sentence in removal.kept:
        print(f"kept  {sentence}")
    done = f"removed{f', also from {path}' if path else ''}"
    print(f"{args.name}: {done if args.delete else 'nothing is removed without --delete'}")
    return 0


def _list(args: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001
    from ml.artifacts import ArtifactError, read_manifest

    rows = []
    for name in settings.corpora:
        corpus = settings.corpus(name)
        try:
            manifest = read_manifest(settings.layout.tracks(name), kinds.CORPUS_TRACKS)
            state = _totals(manifest["summary"])
        except ArtifactError:
            state = "not built" if corpus.root.exists() else "not there yet"
        rows.append([name, corpus.kind, str(corpus.root), state])
    _print_table(["name", "kind", "root", "corpus_tracks"], rows)
    return 0


def _cells(row: Mapping[str, Any]) -> list[str]:
    duration_s, track_id = row["duration_s"], row["track_id"]
    return [
        track_id,
        row["stem_id"].removeprefix(f"{track_id}/"),
        " > ".join(row["labels"]) or "-",
        "-" if duration_s is None else f"{duration_s:.1f}",
        str(row["rate_hz"] or "-"),
        str(row["channels"] or "-"),
        f"{20 * math.log10(row['peak']):.1f}" if row["peak"] else "-",
        "-" if row["rms_db"] is None else f"{row['rms_db']:.1f}",
        f"{100 * row['active_s'] / duration_s:.0f} %" if duration_s else "-",
        row["problem"] or "",
    ]


def _totals(summary: Mapping[str, Any]) -> str:
    splits = [
        f"{value} {key.removesuffix('_tracks')}"
        for key, value in sorted(summary.items())
        if re.fullmatch(r"(train|valid|test)_tracks", key)
    ]
    return (
        f"{count_text(summary['tracks'], 'track')}, {count_text(summary['stems'], 'stem')}, "
        f"{summary['usable_stems']} usable, {summary['hours']:.2f} h of music, "
        f"{summary['stem_hours']:.2f} h of stems ({summary['active_stem_hours']:.2f} h of them "
        f"sound), {count_text(summary['problems'], 'problem')}"
        + (f"; tracks by split: {', '.join(splits)}" if splits else "")
    )


def _counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count stems in the two ways that papers use."""
    return {
        "stems_by_file": sum(len(row["files"]) for row in rows),
        "stems_by_type": len({(row["track_id"], *row["labels"]) for row in rows}),
    }


def _counted(summary: Mapping[str, Any]) -> str:
    by_file, by_type = count_text(summary["stems_by_file"], "stem"), summary["stems_by_type"]
    way = "file" if summary["stems"] == summary["stems_by_file"] else "type"
    return f"{by_file} by file, {by_type} by (category, type), counted here by {way}"


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that fits the terminal; elsewhere plain columns at their full width."""
    if sys.stdout.isatty():
        _print_rich(columns, rows)
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = [
            cell.rjust(width) if column in _RIGHT else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    used = [place for place in range(len(columns)) if any(row[place] for row in rows)]
    table = Table(box=None, pad_edge=False)
    for place in used:
        is_right = columns[place] in _RIGHT
        table.add_column(
            columns[place],
            justify="right" if is_right else "left",
            overflow="fold",
            no_wrap=is_right,
        )
    for row in rows:
        table.add_row(*(Text(row[place]) for place in used))
    Console(color_system=None).print(table)  # without styles: ``main`` writes escapes out


_ACTIONS = {"inspect": _inspect, "add": _add, "build": _build, "remove": _remove, "list": _list}


def _add_demo(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "demo",
        description="Compose and render the demo corpora (demo, demo-plain, demo-swapped) below "
        "the home's corpora folder. Nothing is downloaded. What is there already is kept.",
        epilog=examples("stems --home small demo --train-songs 20 --heldout-songs 10"),
    )
    parser.add_argument("--seed", type=int, help="all songs follow from it (default: demo.seed)")
    parser.add_argument(
        "--train-songs", type=int, help="songs to train on (default: demo.train_songs)"
    )
    parser.add_argument(
        "--heldout-songs", type=int, help="songs to test on (default: demo.heldout_songs)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=cores(),
        help="processes (default: %(default)s)",
    )
    parser.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace, settings: Settings) -> int:
    """Build the corpora and print what they hold."""
    from ml.corpora.demo.build import build_demo_corpora
    from ml.corpora.demo.songs import DemoConfig

    names = ("seed", "train_songs", "heldout_songs")
    chosen = {name: value for name in names if (value := getattr(args, name)) is not None}
    config = DemoConfig(**{**settings.demo.model_dump(), **chosen})
    artifacts = build_demo_corpora(settings.layout.corpora, config, workers=args.workers)
    for name, artifact in artifacts.items():
        summary = artifact.summary
        state = "up to date" if artifact.reused else "built"
        print(
            f"{name}: {state}, {summary['songs']} songs, {summary['stems']} stems, "
            f"{summary['stem_hours']} hours of stems, in {artifact.path}"
        )
    return 0
