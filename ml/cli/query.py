"""``stems query``: which stems fit with a mix, are like another, or play an instrument?

``stems serve``: the page where one drops a mix, asks for a stem, and hears both together.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.cli.options import add_model, check_audio, examples
from ml.settings import Settings

if TYPE_CHECKING:
    from ml.music.fit import Fit
    from ml.retrieval.queries.candidates import Candidate
    from ml.retrieval.queries.retriever import StemRetriever
    from ml.retrieval.queries.stem_files import StemFiles

_K = 10


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs ``query`` and ``serve``."""
    _add_serve(verbs)
    parser = verbs.add_parser(
        "query",
        description="Rank the stems of the table: by how well they fit with a mix (MIX, perhaps "
        "--instrument), by how near they are to a stem (--like), or by what they play "
        "(--instrument alone).",
        epilog=examples(
            'stems query mix.wav --instrument "acoustic guitar" -k 10',
            "stems query drums.wav bass.wav --corpus demo --save hits",
            "stems query --like demo/heldout-009/01-acoustic-guitar",
            'stems query --instrument "grand piano"',
            'stems query mix.wav --bpm 118..124 --key "A minor" --save hits --fit',
        ),
    )
    parser.add_argument(
        "mix",
        nargs="*",
        type=Path,
        metavar="MIX",
        help="audio file of 1 s or more; several are summed",
    )
    parser.add_argument("--instrument", help="what the stem should play (default: any music)")
    parser.add_argument(
        "--like", metavar="KEY|FILE", help="more stems like this one: <corpus>/<stem>, or a file"
    )
    parser.add_argument(
        "--exclude-own-track", action="store_true", help="with --like: none of that stem's track"
    )
    parser.add_argument(
        "-k",
        type=int,
        metavar="N",
        help=f"how many stems (default: {_K}, or all if there are fewer)",
    )
    add_model(parser)
    parser.add_argument("--corpus", metavar="NAME", help="only stems of this corpus")
    parser.add_argument(
        "--bpm", metavar="LOW..HIGH", help="only stems of such a tempo: 118..124, or 120"
    )
    parser.add_argument("--key", help='only stems of this key: "A minor", Bb, F#m')
    parser.add_argument("--where", help="only stems for which this holds: \"category = 'guitar'\"")
    parser.add_argument(
        "--exclude-tracks",
        nargs="+",
        action="extend",
        default=[],
        metavar="ID",
        help="none of these tracks",
    )
    parser.add_argument("--per-track", type=int, metavar="N", help="at most N stems of a track")
    parser.add_argument(
        "--variants",
        action="store_true",
        help="each recording of one thing by itself, not only the best",
    )
    parser.add_argument(
        "--by-ear", action="store_true", help="leave out of account what stems are labelled"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="DIR",
        help="write the best chunk of each stem, alone and with the mix, and results.json",
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="with --save: stretch each chunk to the tempo of the MIX, and begin both on a beat",
    )
    parser.add_argument(
        "--fit-key", action="store_true", help="with --fit: transpose it to the key of the MIX too"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Search, print, and save."""
    _check(args)
    _check_places(args, settings)
    gc.set_threshold(50_000)  # imports make no garbage; looking for it is 7 % of their time
    from ml.retrieval.queries.retriever import open_retriever

    retriever = open_retriever(settings, args.model)
    if args.corpus is not None and args.corpus not in (published := retriever.tables.corpora()):
        there = ", ".join(published) or "none"
        raise ValueError(
            f"corpus {args.corpus!r} is not in {retriever.tables.uri}; corpora there: {there}; "
            f"embed it with: stems embed {args.corpus}"
        )
    candidates = _search(args, retriever)
    if args.instrument is not None:
        _say_how_words_are_taken(args, retriever, candidates)
    rows = [asdict(candidate) for candidate in candidates]
    if args.save is not None:
        rows = _save(args, settings, retriever, candidates)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print_candidates(candidates, like=args.like is not None)
    return 0


def _say_how_words_are_taken(
    args: argparse.Namespace, retriever: StemRetriever, candidates: Sequence[Candidate]
) -> None:
    from ml.retrieval.queries.words import read_words
    from ml.retrieval.tables.search import label_filter

    words = read_words(retriever, args.instrument, has_mix=bool(args.mix))
    if words.note is not None:
        print(words.note, file=sys.stderr)
    for label, stems in words.labels.items():
        if any(label not in (c.label, c.category) for c in candidates):
            only = f'--where "{label_filter(label)}"'
            print(f'labelled "{label}": {stems} stems; only these: {only}', file=sys.stderr)
    if not args.mix:
        print(
            "without a MIX stems are ranked by their labels alone: the score compares label and "
            "words, not sounds",
            file=sys.stderr,
        )


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be asked before anything is loaded."""
    if args.like is not None and (args.mix or args.instrument is not None):
        raise ValueError(
            "--like asks by a stem alone; leave MIX and --instrument out, or narrow the answer "
            "with --where \"category = 'guitar'\""
        )
    if args.like is None and args.exclude_own_track:
        raise ValueError("--exclude-own-track goes with --like; with a MIX use --exclude-tracks ID")
    if args.like is None and args.instrument is None and not args.mix:
        raise ValueError(
            "nothing to ask with; give MIX, --instrument TEXT, --like KEY, or MIX and TEXT"
        )
    if args.fit_key and not args.fit:
        raise ValueError("--fit-key goes with --fit")
    if args.fit and (args.save is None or not args.mix):
        raise ValueError("--fit brings what --save DIR writes to a MIX; give both")
    if args.save is not None:
        from ml.retrieval.queries.excerpts import check_folder

        check_folder(args.save.resolve())


def _check_places(args: argparse.Namespace, settings: Settings) -> None:
    """Refuse files and corpora that are not there before a model is loaded."""
    for path in args.mix:
        check_audio(path)
    if args.like is not None and _is_path(args.like, settings):
        check_audio(Path(args.like))
    if args.corpus is None or any(settings.layout.lancedb.glob(f"*/published/{args.corpus}")):
        return
    settings.corpus(args.corpus)  # an unknown name is an error that lists the known ones


def _is_path(text: str, settings: Settings) -> bool:
    """Tell whether a text is the path of a file, whether there or not, and no key of a stem."""
    from ml.audio.files import AUDIO_SUFFIXES

    path = Path(text)
    has_place = path.is_absolute() or text.startswith(("./", "../", "~"))
    is_named = path.suffix.lower() in AUDIO_SUFFIXES and path.parts[0] not in settings.corpora
    return path.exists() or has_place or is_named


def _search(args: argparse.Namespace, retriever: StemRetriever) -> list[Candidate]:
    filters: dict[str, Any] = {
        "k": min(_K, len(retriever.tables)) if args.k is None else args.k,
        "where": _where(args, retriever),
        "exclude_tracks": args.exclude_tracks,
        "per_track": args.per_track,
        "variants": args.variants,
    }
    if args.like is not None:
        own = args.exclude_own_track
        return retriever.query_by_stem(args.like, exclude_own_track=own, **filters)
    if not args.mix:
        return retriever.query_by_text(args.instrument, **filters)
    by_labels = not args.by_ear
    return retriever.query(list(args.mix), args.instrument, uses_labels=by_labels, **filters)


def _save(
    args: argparse.Namespace,
    settings: Settings,
    retriever: StemRetriever,
    candidates: list[Candidate],
) -> list[dict[str, Any]]:
    from ml.retrieval.queries.excerpts import PlayedMix, save_excerpts
    from ml.retrieval.queries.stem_files import StemFiles

    files, model = StemFiles(settings.layout), retriever.model
    rows = save_excerpts(
        args.save,
        candidates,
        lambda candidate: files.stem(asdict(candidate)),
        chunk_s=model.chunk_s,
        played=PlayedMix(mix=list(args.mix), rate_hz=model.rate_hz) if args.mix else None,
        fit_of=_fit_of(args, files, model.rate_hz) if args.fit else None,
        about={
            "mix": [str(path) for path in args.mix],
            "instrument": args.instrument,
            "like": args.like,
            "model": model.name,
            "model_id": model.model_id,
        },
    )
    quieter = [row for row in rows if row["preview_gain_db"] < 0]
    said = f", {len(quieter)} previews turned down to full scale" if quieter else ""
    print(f"{len(rows)} stems saved in {args.save}{said}", file=sys.stderr)
    for row in rows:
        if row["fit"] is not None:
            print(f"{row['excerpt']}: {_fit_text(row['fit'])}", file=sys.stderr)
    return rows


def _fit_text(fit: Mapping[str, Any]) -> str:
    changes = [
        f"{fit['speed']:.2f} times as fast" if round(fit["speed"], 2) != 1 else None,
        f"{fit['semitones']:+d} semitones" if fit["semitones"] else None,
        *fit["notes"],
    ]
    return "; ".join(filter(None, changes)) or "as it is"


def _fit_of(args: argparse.Namespace, files: StemFiles, rate_hz: int) -> Callable[[Candidate], Fit]:
    """Listen to the mix, say what it is, and plan for it."""
    from ml.music.fit import plan_fit
    from ml.retrieval.queries.mix import hear_mix

    mix = hear_mix(list(args.mix), rate_hz)
    tempo = "no steady tempo" if mix.bpm is None else f"{mix.bpm:.1f} bpm"
    print(f"the mix has {tempo} and {mix.key or 'no plain key'}", file=sys.stderr)

    def plan(candidate: Candidate) -> Fit:
        places = (candidate.best_start_s or 0.0, candidate.mix_start_s or 0.0)
        return plan_fit(files.music(asdict(candidate)), mix, *places, to_key=args.fit_key)

    return plan


def _where(args: argparse.Namespace, retriever: StemRetriever) -> str | None:
    from ml.retrieval.tables.database import sql_text
    from ml.retrieval.tables.search import music_filter

    parts = [
        f"corpus = {sql_text(args.corpus)}" if args.corpus else None,
        music_filter(retriever.tables, args.bpm, args.key),
        f"({args.where})" if args.where else None,
    ]
    return " AND ".join(filter(None, parts)) or None


def print_candidates(candidates: Sequence[Candidate], *, like: bool = False) -> None:
    """Print one line a stem: what the score compares, where to play it, how many it stands for.

    Args:
        candidates: best first.
        like: whether they were asked for by an example; else by a mix or, without, by words.
    """
    if not candidates:
        print("no stem passes the filters")
        return
    has_mix = any(c.mix_start_s is not None for c in candidates)
    alone = ("likeness", "most alike at") if like else ("label match", "typical at")
    score, place = ("score", "fits best at") if has_mix else alone
    rows: list[tuple[str, ...]] = [
        ("rank", score, "label", "corpus", "stem", "variants", place, "with mix at", "bpm", "key")
    ]
    for c in candidates:
        cells = (str(c.rank), f"{c.score:.3f}", c.label, c.corpus, c.stem_id)
        places = (_seconds(c.best_start_s), _seconds(c.mix_start_s))
        music = ("" if c.bpm is None else f"{c.bpm:.1f}", c.musical_key or "")
        rows.append((*cells, f"+{len(c.variants)}" if c.variants else "", *places, *music))
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _add_serve(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "serve",
        description="Serve the page and its API (/openapi.json) until Ctrl-C.",
        epilog=examples("stems serve", "stems serve --port 0 --model film"),
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=_port, default=8000, help="port; 0: any free one")
    add_model(parser, "the champion, also after a promotion")
    parser.set_defaults(run=run_serve)


def run_serve(args: argparse.Namespace, settings: Settings) -> int:
    """Serve until interrupted."""
    from ml.serve.app import serve
    from ml.serve.security import is_loopback

    if not is_loopback(args.host):
        print(
            f"warning: everybody who can reach {args.host} may search, listen and download; "
            f"nobody is asked for a password"
        )
    try:
        serve(settings, host=args.host, port=args.port, model=args.model, on_ready=_ready)
    except KeyboardInterrupt:
        print("stopped")
    return 0


def _ready(url: str) -> None:
    print(f"listening on {url} (Ctrl-C stops)", flush=True)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port; expected 0…65535")
    return port
