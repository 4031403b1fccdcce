"""Scores as tables for a terminal: one evaluation in full, or all of them at a glance.

Table I as published (Riou et al., arXiv:2411.19806v2) can stand beside our own figures on MUSDB18
and MoisesDB: beside the ``paper`` protocol, which is what the paper describes; and its row of
Stem-JEPA on MUSDB18, which Stem-JEPA's script measured, beside ``predecessor``. It means nothing
beside other protocols or corpora. Percent; no intervals were published. A model that takes no text
has one row for both conditionings of MoisesDB.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import isnan
from typing import Any

from ml.metrics import BEATS, MAIN, METRICS, RETRIEVAL
from ml.scores.files import LABEL, LOSS, SWAPPED

_GLANCE = {"retrieval": MAIN, "beats": [m for m in BEATS if BEATS[m].is_main]}
"""Evaluation → what of it is seen at a glance."""
_PLAIN = ("fine", "all tracks")
"""Conditionings that are not named: those of a home nobody configured."""
_WITHIN = {name: metric.like_stems for name, metric in RETRIEVAL.items() if metric.like_stems}
"""Metrics of places among like stems, and what makes stems alike."""
_WIDEST = len(RETRIEVAL)
"""Metrics that stand beside each other on a terminal; tables of more have a row a metric."""
_MISSING = {"value": None, "low": None}

_Cells = Mapping[tuple[str, str], Mapping[str, Any]]
"""Model and metric → a row of scores."""
PUBLISHED = "published"
_METRICS = ("recall@1", "recall@5", "recall@10", "normalized_rank_mean", "normalized_rank_median")
_PAPER = "retrieval-paper"
_PUBLISHED_BY = (_PAPER, "retrieval-predecessor")
"""Evaluations beside which published figures belong."""
_STEMS = {"musdb18": 600, "moisesdb": 2585}
_Row = tuple[float, float, float, float, float]

_MUSDB18: Mapping[str, _Row] = {
    "contrastive": (2.2, 72.5, 86.0, 1.5, 0.7),
    "class": (33.0, 63.2, 76.2, 2.0, 0.5),
    "clap": (33.5, 63.0, 74.5, 2.5, 0.5),
    "pretrained": (32.2, 91.0, 96.2, 0.6, 0.3),
    "film": (38.8, 89.7, 95.0, 0.7, 0.3),
}
_MOISESDB_UNCONDITIONED: Mapping[str, _Row] = {
    "contrastive": (2.7, 31.2, 43.3, 7.7, 0.6),
    "class": (9.9, 24.1, 31.6, 11.7, 1.7),
}
_MOISESDB_FINE: Mapping[str, _Row] = {
    **_MOISESDB_UNCONDITIONED,
    "clap": (19.3, 35.8, 44.0, 7.2, 0.7),
    "pretrained": (12.5, 45.6, 59.3, 1.9, 0.3),
    "film": (22.0, 49.5, 57.8, 4.5, 0.2),
}
_MOISESDB_COARSE: Mapping[str, _Row] = {
    **_MOISESDB_UNCONDITIONED,
    "clap": (18.9, 37.8, 46.9, 7.3, 0.5),
    "pretrained": (11.1, 44.5, 58.1, 2.1, 0.3),
    "film": (19.2, 49.5, 60.0, 3.8, 0.2),
}
_TABLE: Mapping[tuple[str, str], Mapping[str, _Row]] = {
    # MUSDB18's labels have one level.
    ("musdb18", "fine"): _MUSDB18,
    ("musdb18", "coarse"): _MUSDB18,
    ("moisesdb", "fine"): _MOISESDB_FINE,
    ("moisesdb", "coarse"): _MOISESDB_COARSE,
}


def table_lines(title: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lay out models as rows and metrics as columns, the interval below each figure, chance last.

    More metrics than fit beside each other become rows, and models columns. A place among like
    stems that applies to no query is "–", and the last lines say why.
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    asked = _WITHIN if LABEL in models else ()
    measured = dict.fromkeys(row["metric"] for row in rows)
    metrics = list(dict.fromkeys([*asked, *measured]))
    cells: dict[tuple[str, str], Mapping[str, Any]] = {
        **{(model, metric): _MISSING for model in models for metric in asked},
        **{(row["model"], row["metric"]): row for row in rows},
    }
    chances = []
    if not all(row["evaluation"].endswith("-paired") for row in rows):
        first_chance = {row["metric"]: row["chance"] for row in reversed(rows)}
        chances = [f"{first_chance[m]:.1f}" if m in measured else "–" for m in metrics]
    lay_out = _metrics_as_rows if len(metrics) > _WIDEST else _models_as_rows
    body = lay_out(metrics, models, cells, chances)
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in body
    ]
    heading = f"{title}, {_counts(rows)}, percent"
    return [heading, *(line for line in lines if line), *within_notes(rows)]


def evaluation_tables(
    rows: Sequence[dict[str, Any]], kind: str, evaluations: Collection[str] | None = None
) -> Iterator[str]:
    """Lay out a table for each evaluation and conditioning, published figures where they belong.

    Args:
        rows: of one corpus.
        kind: of the corpus (``published_rows``).
        evaluations: which to show; None: all.
    """
    for key in dict.fromkeys((row["evaluation"], row["conditioning"]) for row in rows):
        evaluation, conditioning = key
        if evaluations is not None and evaluation not in evaluations:
            continue
        same = [row for row in rows if row["conditioning"] == conditioning]
        table = [row for row in same if row["evaluation"] == evaluation]
        title = f"{evaluation}: {table[0]['corpus']}, {conditioning}"
        lines = table_lines(title, [*table, *published_rows(kind, table)])
        yield "\n".join([*lines, *swapped_notes(same, evaluation)])


def within_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how many queries have no place among like stems: sentences, none where all have one.

    Args:
        rows: of one evaluation of retrieval, one corpus and conditioning.
    """
    own = {row["metric"]: row["n_queries"] for row in rows if row["model"] == LABEL}
    notes = []
    for metric, what in _WITHIN.items() if own else ():
        left_out = max(own.values()) - own.get(metric, 0)
        if metric not in own:
            notes.append(f"{METRICS[metric].heading} –: no query's {what} is that of another stem")
        elif left_out:
            queries = "1 query" if left_out == 1 else f"{left_out} queries"
            notes.append(
                f"{METRICS[metric].heading}: {queries} left out, "
                f"for stems whose {what} is missing or that of no other stem"
            )
    return notes


def swapped_notes(rows: Sequence[Mapping[str, Any]], evaluation: str = "retrieval") -> list[str]:
    """Say how many queries got no mix of another track: sentences, none where all got one.

    Args:
        rows: of any evaluations, one corpus and conditioning.
        evaluation: whose queries; it was not made where there are no rows of it.
    """
    own = [row for row in rows if row["evaluation"] == evaluation and row["model"] == LABEL]
    swapped = [row["n_queries"] for row in rows if row["evaluation"] == evaluation + SWAPPED]
    if not own or evaluation.endswith(("-seen", SWAPPED, LOSS)):
        return []
    if not swapped:
        is_one_track = all(row["low"] is None or isnan(row["low"]) for row in own)
        why = "there is one track only" if is_one_track else "no text is asked for in two tracks"
        return [f"mix swapped –: {why}"]
    left_out = max(row["n_queries"] for row in own) - max(swapped)
    queries = "1 query" if left_out == 1 else f"{left_out} queries"
    why = "whose text is asked for in one track only"
    return [f"mix swapped: {queries} left out, {why}"] if left_out else []


def glance_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lay out the main figures with their intervals, a line a model, chance below each corpus.

    Args:
        rows: of any evaluations; empty lines come of those that are none of the main ones.
    """
    lines: list[str] = []
    for evaluation, metrics in _GLANCE.items():
        chosen = [row for row in rows if row["evaluation"] == evaluation]
        if chosen:
            lines += [f"{evaluation}, percent with 95 % intervals", *_glance(metrics, chosen), ""]
    return lines


def _glance(metrics: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    body = [["corpus", "model", *(f" {METRICS[metric].heading}" for metric in metrics)]]
    for corpus, conditioning in dict.fromkeys((r["corpus"], r["conditioning"]) for r in rows):
        of_corpus = [x for x in rows if (x["corpus"], x["conditioning"]) == (corpus, conditioning)]
        cells = {(row["model"], row["metric"]): row for row in of_corpus}
        name = corpus if conditioning in _PLAIN else f"{corpus}, {conditioning}"
        for model in dict.fromkeys(row["model"] for row in of_corpus):
            figures = [cells.get((model, metric)) for metric in metrics]
            body.append([name, model, *(f"{_value(x):>5} {_interval(x)}" for x in figures)])
            name = ""
        chances = {row["metric"]: f"{row['chance']:5.1f}" for row in of_corpus}
        body.append(["", "chance", *(chances.get(metric, "") for metric in metrics)])
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in body]


def _counts(rows: Sequence[Mapping[str, Any]]) -> str:
    measured = [row for row in rows if row["evaluation"] != PUBLISHED] or rows
    queries = max(row["n_queries"] for row in measured)
    if rows[0]["evaluation"].startswith("beats"):
        return f"{queries} tracks"
    return f"{queries} queries, {rows[0]['n_gallery']} stems"


def _models_as_rows(
    metrics: Sequence[str], models: Sequence[str], cells: _Cells, chances: Sequence[str]
) -> list[list[str]]:
    body = [["", *(_heading(metric) for metric in metrics)]]
    for model in models:
        rows = [cells.get((model, metric)) for metric in metrics]
        body += [[model, *map(_value, rows)], ["", *map(_interval, rows)]]
    return [*body, ["chance", *chances]] if chances else body


def _metrics_as_rows(
    metrics: Sequence[str], models: Sequence[str], cells: _Cells, chances: Sequence[str]
) -> list[list[str]]:
    body = [["", *models, "chance" if chances else ""]]
    for metric, chance in zip(metrics, chances or [""] * len(metrics), strict=True):
        rows = [cells.get((model, metric)) for model in models]
        body.append([_heading(metric), *map(_value, rows), chance])
        body.append(["", *map(_interval, rows), ""])
    return body


def _heading(metric: str) -> str:
    return METRICS[metric].heading if metric in METRICS else metric


def _value(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    return "–" if row["value"] is None else f"{row['value']:.1f}"


def _interval(row: Mapping[str, Any] | None) -> str:
    if row is None or row["low"] is None:
        return ""
    return f"{row['low']:.1f}…{row['high']:.1f}"


def published_rows(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List the published figures that belong beside scores, shaped like these.

    Args:
        kind: the kind of the corpus (``ml.corpora.corpus.open_corpus``).
        rows: of one evaluation, one corpus and conditioning (``ml.scores.files.read_scores``).

    Returns:
        Rows of evaluation ``published`` and model "film (published)", which says what differs where
        the published gallery or number of queries is another; empty where nothing was published.
        They are for showing, not for the files of scores.
    """
    if (evaluation := rows[0]["evaluation"]) not in _PUBLISHED_BY:
        return []
    corpus, conditioning = rows[0]["corpus"], rows[0]["conditioning"]
    published = _TABLE.get((kind, conditioning), {})
    if not published:
        return []
    if evaluation != _PAPER:
        published = {"class": published["class"]} if kind == "musdb18" else {}
    size = _STEMS.get(kind)
    found = max(row["n_queries"] for row in rows), rows[0]["n_gallery"]
    is_same = found == (size, size)
    named = PUBLISHED if is_same else f"{PUBLISHED}: {size} queries of {size} stems"
    return [
        {
            "evaluation": PUBLISHED,
            "corpus": corpus,
            "model": f"{model} ({named})",
            "conditioning": conditioning,
            "n_queries": size,
            "n_gallery": size,
            "metric": metric,
            "value": value,
            "low": None,
            "high": None,
            "chance": None,
        }
        for model, values in published.items()
        for metric, value in zip(_METRICS, values, strict=True)
    ]
