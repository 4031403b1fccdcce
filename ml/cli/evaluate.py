"""``stems evaluate``: score models on a corpus, by one of five evaluations.

``retrieval`` (Table I), ``rendered`` (the same on a corpus that anyone can make), ``instruments``
(Fig. 2), ``alignment`` (the time at which a stem fits), in this order, and ``beats`` (Table II,
``ml.cli.beats``); each embeds or prepares what it needs, scores, and prints.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.cli.beats import add_beats
from ml.cli.embed import add_options, embed
from ml.cli.options import (
    add_conditioning,
    add_corpus,
    add_draws,
    draws,
    examples,
    state_text,
)
from ml.cli.report import print_scores
from ml.settings import Settings, load_settings
from ml.tracks import CONDITIONINGS

if TYPE_CHECKING:
    from ml.artifacts import Artifact
    from ml.retrieval.evaluation.evaluate import EvaluationConfig, Protocol

_PROTOCOLS: dict[str, tuple[Protocol, ...]] = {
    "default": ("default",),
    "predecessor": ("predecessor",),
    "paper": ("paper",),
    "both": ("default", "predecessor"),
    "all": ("default", "predecessor", "paper"),
}
_HEADINGS = ("stem", "tr+inst", "tr+cat", "tr", "inst", "cat", "wrong")
"""Of the seven shares, in their order; "tr": in the right track."""


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb with its evaluations."""
    parser = verbs.add_parser(
        "evaluate",
        description="Score models on a corpus; what is missing is embedded or prepared first.",
        epilog=examples(
            "stems evaluate retrieval --corpus demo",
            "stems evaluate retrieval --corpus demo --models two-part --baselines",
            "stems evaluate beats",
        ),
    )
    evaluations = parser.add_subparsers(dest="evaluation", required=True, metavar="EVALUATION")
    for add in (_add_retrieval, _add_rendered, _add_instruments, _add_alignment, add_beats):
        add(evaluations)


def _add_retrieval(evaluations: argparse._SubParsersAction) -> None:
    parser = evaluations.add_parser(
        "retrieval",
        help="recall and normalised rank of leave-one-out queries (Table I)",
        description="For each stem: predict it from the mix of the others and its label, and rank "
        "all stems of the corpus. Embeds the corpus first where that was not done. Queries of "
        "tracks that a model was trained on are left out and counted; where nothing else is left, "
        "they are scored and marked as seen.",
        epilog=examples("stems evaluate retrieval --corpus demo"),
    )
    add_corpus(parser)
    parser.add_argument(
        "--conditioning",
        nargs="+",
        choices=CONDITIONINGS,
        default=["fine"],
        help="what queries ask for: a stem's finest label, its coarsest, or 'music' for all",
    )
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="beside --models also what needs no learning, as far as it is there: untrained, "
        "spectrum, clap-audio",
    )
    parser.add_argument(
        "--protocol",
        choices=tuple(_PROTOCOLS),
        default="default",
        help="default: sounding chunks, cosine; predecessor: whole files, as Stem-JEPA's script; "
        "paper: whole files, means over patches, Euclidean distance; both: the first two",
    )
    parser.add_argument(
        "--seen", action="store_true", help="also score the tracks seen in training, marked so"
    )
    add_options(parser)
    add_draws(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON list, one figure each")
    parser.set_defaults(run=run_retrieval)


def run_retrieval(args: argparse.Namespace, settings: Settings) -> int:
    """Embed what is missing, score, print the table."""
    rows = _score(args.corpus, args, settings)
    if args.json:
        print(json.dumps(rows, indent=1, allow_nan=False))
    else:
        _print_tables(rows, settings.corpus(args.corpus).kind)
    return 0


def _score(corpus: str, args: argparse.Namespace, settings: Settings) -> list[dict[str, Any]]:
    """Embed what is missing of a corpus, and score retrieval on it by each protocol."""
    from ml.corpora.label_embeddings import read_label_vectors
    from ml.labels.clap_files import clap_files_of
    from ml.retrieval.embeddings.baselines import BASELINES, model_names
    from ml.retrieval.evaluation.evaluate import evaluate_by_protocol

    rows: list[dict[str, Any]] = []
    # With --json nothing but the list goes to stdout.
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        if args.models and args.baselines:
            known = model_names(settings.layout, clap_files_of(settings))
            args.models = [*dict.fromkeys((*args.models, *(x for x in known if x in BASELINES)))]
        config = _config(args, settings)
        models = [embed(corpus, args, settings, x) for x in args.conditioning][-1]
        vectors = read_label_vectors(settings.layout, corpus)
        for protocol in _PROTOCOLS[args.protocol]:
            artifact, scores = evaluate_by_protocol(
                corpus,
                models,
                settings.layout,
                vectors,
                protocol=protocol,
                config=config,
                tracking_uri=settings.tracking_uri,
            )
            _print_artifact(artifact)
            rows += scores
        print()
    return rows


def _add_rendered(evaluations: argparse._SubParsersAction) -> None:
    from ml.corpora.midi import benchmark

    parser = evaluations.add_parser(
        "rendered",
        help="retrieval on a benchmark that is the same for everyone, from MIDI files",
        description=f"Play {len(benchmark.COMPOSITIONS)} compositions that no model is trained on, "
        f"{benchmark.RENDERING['renderings']} times each, embed them with every model of the home, "
        "with starter and with what needs no learning, and score retrieval. The files are known by "
        "their bytes; what is missing is named, with where to get it. What is up to date is not "
        "done again.",
        epilog=examples(
            "stems evaluate rendered ~/midi",
            "stems evaluate rendered ~/midi --real songs.csv --models starter spectrum",
        ),
    )
    parser.add_argument("root", type=Path, metavar="FOLDER", help="that holds the MIDI files")
    parser.add_argument(
        "--soundfont", type=Path, default=benchmark.SOUNDFONT, metavar="SF2", help="FluidR3_GM.sf2"
    )
    parser.add_argument(
        "--real", type=Path, metavar="CSV", help="real songs to score too (kind manifest)"
    )
    add_options(parser)
    add_draws(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON list, one figure each")
    parser.set_defaults(
        run=run_rendered,
        action="rendered",
        conditioning=["fine"],
        baselines=False,
        protocol="default",
        seen=False,
    )


def run_rendered(args: argparse.Namespace, settings: Settings) -> int:
    """Make the benchmark's corpus a corpus of the home, and score it as any other."""
    from ml.corpora.midi import benchmark
    from ml.corpora.registration import register_corpus
    from ml.labels.clap_files import clap_files_of
    from ml.retrieval.embeddings.baselines import model_names

    options = benchmark.rendering_options(args.soundfont)
    midi = settings.layout.corpora / f"{benchmark.NAME}-midi"
    benchmark.gather_compositions(args.root, midi)
    names = [register_corpus(settings, "midi", midi, benchmark.NAME, options)]
    if args.real:
        settings = load_settings(settings.home)
        names.append(register_corpus(settings, "manifest", args.real))
    settings = load_settings(settings.home)
    args.models = args.models or model_names(settings.layout, clap_files_of(settings))
    rows = {name: _score(name, args, settings) for name in names}
    if args.json:
        print(json.dumps([row for of in rows.values() for row in of], indent=1, allow_nan=False))
        return 0
    for name, of_corpus in rows.items():
        _print_tables(of_corpus, settings.corpus(name).kind)
        print(_gallery_text(name, settings))
    return 0


def _gallery_text(corpus: str, settings: Settings) -> str:
    """Say how many stems share a label: how weak it is to look the label up."""
    from ml.corpora.table import read_corpus_tracks

    table = read_corpus_tracks(settings.layout, corpus)
    labels = [each for each, active in table.select("labels", "active_s").iter_rows() if active > 0]
    fine, coarse = (Counter(each[at] for each in labels if each) for at in (-1, 0))
    medians = [
        statistics.median([count for count in counts.values() for _ in range(count)] or [0])
        for counts in (fine, coarse)
    ]
    return (
        f"{corpus}: {len(labels)} stems with {len(fine)} labels; half of them share their label "
        f"with {medians[0]:.0f} stems or more, itself counted, and their category with "
        f"{medians[1]:.0f}\n"
    )


def _config(args: argparse.Namespace, settings: Settings) -> EvaluationConfig:
    from ml.device import choose_device
    from ml.retrieval.evaluation.evaluate import EvaluationConfig

    return EvaluationConfig(
        conditionings=tuple(args.conditioning),
        splits=tuple(args.splits) if args.splits else None,
        has_seen_rows=args.seen,
        **draws(args, settings),
        device=str(choose_device(args.device)),
        batch_chunks=args.batch_chunks,
        precision=args.precision,
    )


def _print_artifact(artifact: Artifact) -> None:
    print(state_text(artifact))
    dropped = artifact.summary["seen_queries_dropped"]
    if artifact.summary["only_seen_tracks"]:
        print("every track was seen in training: the scores are of seen tracks and marked so")
    elif dropped:
        print(f"{dropped} queries are left out: a model was trained on their tracks")


def _print_tables(rows: Sequence[dict[str, Any]], kind: str) -> None:
    from ml.scores.intervals import INTERVALS_SAID
    from ml.scores.text import evaluation_tables

    print("\n\n".join([*evaluation_tables(rows, kind), INTERVALS_SAID]))


def _add_instruments(evaluations: argparse._SubParsersAction) -> None:
    parser = evaluations.add_parser(
        "instruments",
        help="what was found instead, by instrument, and recall of labels unknown to training",
        description="From the retrieval scores of a corpus: recall by whether training met the "
        "label (same text, other words, not at all), what the nearest stem of each instrument's "
        "queries was (Fig. 2), and which category was found instead.",
        epilog=examples("stems evaluate instruments --corpus demo"),
    )
    add_corpus(parser)
    parser.add_argument(
        "--model", metavar="NAME", help="whose instruments to print (default: highest recall@1)"
    )
    parser.add_argument(
        "--other-words",
        type=float,
        default=0.75,
        metavar="COSINE",
        help="similarity from which a training label counts as the same in other words",
    )
    add_draws(parser)
    parser.set_defaults(run=run_instruments)


def run_instruments(args: argparse.Namespace, settings: Settings) -> int:
    """Analyse, print recall by presence and the shares by instrument."""
    from ml.labels.encoders import label_encoder_of
    from ml.reports.instruments import track_instruments
    from ml.retrieval.evaluation.instruments import (
        EVALUATION,
        evaluate_instruments,
        read_instruments,
    )
    from ml.scores.files import read_scores

    artifact = evaluate_instruments(
        args.corpus,
        settings.layout,
        label_encoder_of(settings),
        threshold=args.other_words,
        **draws(args, settings),
    )
    track_instruments(settings.layout, args.corpus, artifact, settings.tracking_uri)
    print(f"{state_text(artifact)}\n")
    scores = read_scores(settings.layout, evaluation=EVALUATION, corpus=args.corpus)
    print("\n".join(presence_lines(scores)))
    rows = read_instruments(settings.layout, args.corpus)
    print("\n" + "\n".join(share_lines(rows, args.model)))
    return 0


def presence_lines(scores: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say recall@1, recall@10 and mean normalised rank of each model by presence group."""
    from ml.retrieval.evaluation.presence import PRESENCES

    cells = {(row["conditioning"], row["model"], row["metric"]): row for row in scores}
    yield f"{'':28}{'queries':>8}{'R@1':>20}{'R@10':>20}{'NR mean':>20}"
    for conditioning, model in dict.fromkeys((r["conditioning"], r["model"]) for r in scores):
        yield f"{model}, {conditioning}"
        for group in PRESENCES:
            metrics = ("recall@1", "recall@10", "normalized_rank_mean")
            rows = [cells.get((conditioning, model, f"{metric}/{group}")) for metric in metrics]
            if rows[0] is not None:
                figures = "".join(f"{_figure(row):>20}" for row in rows)
                yield f"  {group:26}{rows[0]['n_queries']:>8}{figures}"
    by_group = [row for row in scores if row["metric"].partition("/")[2] in PRESENCES]
    chance = {row["metric"].partition("/")[0]: row["chance"] for row in by_group}
    figures = (chance["recall@1"], chance["recall@10"], chance["normalized_rank_mean"])
    yield f"{'chance':36}" + "".join(f"{figure:>20.1f}" for figure in figures)


def share_lines(rows: Sequence[Mapping[str, Any]], model: str | None) -> Iterator[str]:
    """Say the seven shares of one model's instruments.

    Raises:
        ValueError: no row is of this model.
    """
    from ml.retrieval.evaluation.instruments import SHARES

    models = list(dict.fromkeys(row["model"] for row in rows))
    if model is not None and model not in models:
        raise ValueError(f"model {model!r} was not analysed; expected one of: {', '.join(models)}")
    if not rows:
        yield "no query is for a labelled stem, so there are no shares by instrument"
        return
    right_stems = {
        name: sum(r["right_stem"] * r["queries"] for r in rows if r["model"] == name)
        for name in models
    }
    shown = model or max(right_stems, key=lambda name: right_stems[name])
    yield f"{shown}: nearest stem in percent of the queries; presence in training"
    yield f"{'':28}{'':>4}" + "".join(f"{text:>9}" for text in _HEADINGS)
    for row in rows:
        if row["model"] == shown:
            shares = "".join(f"{row[share]:>9.0f}" for share in SHARES)
            near = ""
            if row["presence"] not in ("same-text", "no-label") and row["nearest_training_label"]:
                near = f" (nearest: {row['nearest_training_label']} {row['similarity']:.2f})"
            yield f"{row['instrument']:28}{row['queries']:>4}{shares}  {row['presence']}{near}"


def _figure(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    interval = "" if row["low"] is None else f" ({row['low']:.1f}…{row['high']:.1f})"
    return f"{row['value']:.1f}{interval}"


def _add_alignment(evaluations: argparse._SubParsersAction) -> None:
    parser = evaluations.add_parser(
        "alignment",
        help="whether a stem's chunk of the same time ranks above its chunks at other times",
        description="For each chunk of a query: rank the chunks of the stem that was left out. "
        "Prints how often the chunk of the same time comes first, its mean rank (0: always first, "
        "50: chance), and the mean rank by distance in time. Embeds the corpus first where that "
        "was not done.",
        epilog=examples("stems evaluate alignment --corpus demo"),
    )
    add_corpus(parser)
    add_conditioning(parser)
    add_options(parser)
    add_draws(parser)
    parser.set_defaults(run=run_alignment)


def run_alignment(args: argparse.Namespace, settings: Settings) -> int:
    """Embed what is missing, score, print the table."""
    from ml.corpora.label_embeddings import read_label_vectors
    from ml.device import choose_device
    from ml.retrieval.evaluation.alignment import evaluate_alignment, read_offsets
    from ml.scores.files import log_scores, read_artifact_scores, tracking_runs

    models = embed(args.corpus, args, settings, args.conditioning)
    has_labels = (settings.layout.labels(args.corpus) / "manifest.json").is_file()
    artifact = evaluate_alignment(
        args.corpus,
        settings.layout,
        models,
        read_label_vectors(settings.layout, args.corpus) if has_labels else {},
        conditioning=args.conditioning,
        device=str(choose_device(args.device)),
        batch_chunks=args.batch_chunks,
        precision=args.precision,
        **draws(args, settings),
    )
    rows = read_artifact_scores(artifact)
    log_scores(artifact, rows, tracking_runs(models), settings.tracking_uri)
    print(f"{state_text(artifact)}\n")
    print_scores(rows)
    print("\n".join(offset_lines(read_offsets(settings.layout, args.corpus))))
    return 0


def offset_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say the mean rank by distance in time, models as columns."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells = {(row["offset_s"], row["model"]): row["value"] for row in rows}
    yield "mean rank (0 first, 100 last) of a stem's chunks by distance from the query's time"
    yield f"{'seconds':>8}" + "".join(f"{model:>14}" for model in models)
    for offset_s in sorted({row["offset_s"] for row in rows}):
        figures = (cells.get((offset_s, model)) for model in models)
        yield f"{offset_s:>8.0f}" + "".join(
            f"{'' if value is None else f'{value:.1f}':>14}" for value in figures
        )
