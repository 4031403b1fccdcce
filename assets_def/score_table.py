"""Scores as Dagster shows them on an asset's page: a table, a plot, and numbers over time."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

_COLUMNS = ("recall@1", "recall@5", "recall@10", "normalized_rank_mean", "right_instrument")
_PLOTTED = "recall@10"


def evaluation_metadata(rows: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    """Metadata for all evaluations of one corpus, paired differences left out.

    Entries of the plain evaluation have their own names, those of others its name before theirs.

    Args:
        rows: of ``ml.scores.files.read_scores``, one corpus and conditioning.
        kind: of the corpus; decides which published figures stand beside ours.
    """
    from ml.retrieval.evaluation.evaluate import EVALUATION, PREDECESSOR
    from ml.scores.files import PAIRED
    from ml.scores.published import published_rows

    shown: dict[str, Any] = {}
    for evaluation in dict.fromkeys(row["evaluation"] for row in rows):
        if evaluation == PAIRED:
            continue
        found = [row for row in rows if row["evaluation"] == evaluation]
        corpus, conditioning = found[0]["corpus"], found[0]["conditioning"]
        beside = published_rows(kind, corpus, conditioning) if evaluation == PREDECESSOR else []
        prefix = "" if evaluation == EVALUATION else f"{evaluation}/"
        metadata = score_metadata(found, beside)
        shown |= {f"{prefix}{name}": value for name, value in metadata.items()}
    return shown


def score_metadata(
    rows: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Metadata for the scores of one corpus.

    Args:
        rows: of ``ml.scores.files.read_scores``, one evaluation.
        published: rows of ``ml.scores.published`` to stand below them in the table.
    """
    shown: dict[str, Any] = {
        f"{row['model']}/{row['metric']}": row["value"]
        for row in rows
        if row["metric"] in (_PLOTTED, "normalized_rank_mean") and row["value"] is not None
    }
    return shown | {
        "scores": dg.MetadataValue.md(score_markdown([*rows, *published])),
        "plot": dg.MetadataValue.md(f"![{_PLOTTED}](data:image/png;base64,{_plot(rows)})"),
    }


def score_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a model and one for chance, in percent, with 95 % intervals."""
    chance = {row["metric"]: row["chance"] for row in rows if row["chance"] is not None}
    metrics = [metric for metric in _COLUMNS if metric in chance]
    found = {(row["model"], row["metric"]): row for row in rows}
    lines = ["| model | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = [_cell(found.get((model, metric))) for metric in metrics]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    lines.append("| *chance* | " + " | ".join(f"{chance[m]:.1f}" for m in metrics) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "–"
    interval = "" if row["low"] is None else f" ({row['low']:.1f}–{row['high']:.1f})"
    return f"{row['value']:.1f}{interval}"


def _plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Recall of each model as a PNG in base64."""
    from ml.figures import Bar, score_bars

    plotted = [row for row in rows if row["metric"] == _PLOTTED]
    bars = [
        Bar(name=row["model"], value=row["value"], low=row["low"], high=row["high"])
        for row in plotted
    ]
    highest = max(row["high"] or row["value"] for row in plotted)
    figure = score_bars(
        bars,
        label=f"{_PLOTTED} in percent",
        chance=plotted[0]["chance"],
        limit=max(1.0, 1.15 * highest),
    )
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120, facecolor="white")
    return base64.b64encode(png.getvalue()).decode()
