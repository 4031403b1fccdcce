"""Scores as Dagster shows them on an asset's page: a table, a plot, and numbers over time."""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml.artifacts import DataLayout
from ml.metrics import MAIN, RETRIEVAL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLOTTED = "recall@10"


def evaluation_metadata(rows: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    """Make metadata for all evaluations of one corpus, paired differences left out.

    Entries of the plain evaluation have their own names, those of others its name before theirs,
    and those of a second conditioning that.

    Args:
        rows: of ``ml.scores.files.read_scores``, one corpus.
        kind: of the corpus; decides which published figures stand beside ours.
    """
    from ml.retrieval.evaluation.evaluate import EVALUATION
    from ml.scores.files import LOSS, PAIRED, SWAPPED
    from ml.scores.text import published_rows

    shown: dict[str, Any] = {}
    for key in dict.fromkeys((row["evaluation"], row["conditioning"]) for row in rows):
        evaluation, conditioning = key
        if evaluation == PAIRED:
            continue
        scores = [row for row in rows if (row["evaluation"], row["conditioning"]) == key]
        beside = published_rows(kind, scores)
        prefix = "" if evaluation == EVALUATION else f"{evaluation}/"
        if conditioning != rows[0]["conditioning"]:
            prefix += f"{conditioning}/"
        if evaluation.endswith((SWAPPED, LOSS)):
            shown[f"{prefix}scores"] = dg.MetadataValue.md(score_markdown(scores))
            continue
        metadata = score_metadata(scores, beside)
        shown |= {f"{prefix}{name}": value for name, value in metadata.items()}
    return shown


def score_metadata(
    rows: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Make metadata for the scores of one corpus.

    Args:
        rows: of ``ml.scores.files.read_scores``, one evaluation.
        published: rows of ``ml.scores.text`` to stand below them in the table.
    """
    shown: dict[str, Any] = {
        f"{row['model']}/{row['metric']}": row["value"]
        for row in rows
        if row["metric"] in (_PLOTTED, "normalized_rank_mean") and row["value"] is not None
    }
    return shown | {
        "scores": dg.MetadataValue.md(score_markdown([*rows, *published])),
        "plot": _picture(_recall_bars(rows), _PLOTTED),
    }


def score_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write one line a model and one for chance, in percent, with 95 % intervals."""
    chance = {row["metric"]: row["chance"] for row in rows if row["chance"] is not None}
    metrics = [name for name, x in RETRIEVAL.items() if name in chance and not x.is_detail]
    by_metric = {(row["model"], row["metric"]): row for row in rows}
    lines = ["| model | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = [_cell(by_metric.get((model, metric))) for metric in metrics]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    lines.append("| *chance* | " + " | ".join(f"{chance[m]:.1f}" for m in metrics) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "–"
    interval = "" if row["low"] is None else f" ({row['low']:.1f}–{row['high']:.1f})"
    return f"{row['value']:.1f}{interval}"


def instrument_metadata(
    scores: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Make metadata: a table by presence group, and Fig. 2 of the model that finds the most stems.

    Args:
        scores: of ``ml.scores.files.read_scores``, evaluation ``instruments``.
        rows: of ``ml.retrieval.evaluation.instruments.read_instruments``.
    """
    from ml.reports.instruments import share_bars

    shown: dict[str, Any] = {"presence": dg.MetadataValue.md(presence_markdown(scores))}
    right_stems: Counter[tuple[str, str]] = Counter()
    for row in rows:
        right_stems[row["model"], row["conditioning"]] += row["right_stem"] * row["queries"]
    if right_stems:
        best = max(right_stems, key=lambda key: right_stems[key])
        plotted = [row for row in rows if (row["model"], row["conditioning"]) == best]
        shown |= {"plotted": " ".join(best), "plot": _picture(share_bars(plotted), "shares")}
    return shown


def presence_markdown(scores: Sequence[Mapping[str, Any]]) -> str:
    """Write a line a model: recall@1 and mean rank of each presence group, in percent."""
    from ml.retrieval.evaluation.presence import PRESENCES

    metrics = [
        f"{metric}/{group}"
        for group in PRESENCES
        for metric in ("recall@1", "normalized_rank_mean")
        if any(row["metric"] == f"{metric}/{group}" for row in scores)
    ]
    rows = {(row["model"], row["conditioning"], row["metric"]): row for row in scores}
    lines = ["| model | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for model, conditioning in dict.fromkeys(key[:2] for key in rows):
        cells = [rows.get((model, conditioning, metric)) for metric in metrics]
        values = " | ".join("–" if cell is None else f"{cell['value']:.1f}" for cell in cells)
        lines.append(f"| {model}, {conditioning} | {values} |")
    chance = {row["metric"]: row["chance"] for row in scores}
    lines.append("| *chance* | " + " | ".join(f"{chance[m]:.1f}" for m in metrics) + " |")
    return "\n".join(lines)


def champion_markdown(layout: DataLayout, model_id: str) -> str:
    """Write a line a corpus and metric: the scores of one version of a model, in percent."""
    from ml.retrieval.evaluation.evaluate import EVALUATION
    from ml.scores.files import read_scores, scored_corpora, scored_models

    called = {
        (corpus, name)
        for corpus in scored_corpora(layout, EVALUATION)
        for name, scored in scored_models(layout, EVALUATION, corpus).items()
        if scored == model_id
    }
    lines = ["| corpus | metric | score (95 % interval) | chance |", "|---|---|---|---|"]
    for row in read_scores(layout, evaluation=EVALUATION):
        if (row["corpus"], row["model"]) in called and row["metric"] in MAIN:
            cells = (row["corpus"], row["metric"], _cell(row), f"{row['chance']:.1f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def comparison_markdown(comparisons: Any) -> str:
    """Write a line a corpus and metric: candidate, champion, difference and interval, percent.

    Args:
        comparisons: sequence of ``ml.retrieval.evaluation.compare.CorpusComparison``.
    """
    lines = [
        "| corpus | metric | candidate | champion | difference | 95 % interval | queries |",
        "|---|---|---|---|---|---|---|",
    ]
    for comparison in comparisons:
        for row in comparison.metrics:
            interval = f"{row.difference.low:+.1f}…{row.difference.high:+.1f}"
            lines.append(
                f"| {comparison.corpus} | {row.metric} | {row.a:.1f} | {row.b:.1f} | "
                f"{row.difference.value:+.1f} | {interval} | {row.n_queries} |"
            )
    return "\n".join(lines)


def _recall_bars(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    from ml.figures import Bar, score_bars

    plotted = [row for row in rows if row["metric"] == _PLOTTED]
    bars = [
        Bar(name=row["model"], value=row["value"], low=row["low"], high=row["high"])
        for row in plotted
    ]
    highest = max(row["high"] or row["value"] for row in plotted)
    return score_bars(
        bars,
        label=f"{_PLOTTED} in percent",
        chance=plotted[0]["chance"],
        limit=max(1.0, 1.15 * highest),
    )


def _picture(figure: "Figure", name: str) -> dg.MarkdownMetadataValue:
    """Put a figure into markdown, as a PNG in base64."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120, facecolor="white")
    data = base64.b64encode(png.getvalue()).decode()
    return dg.MetadataValue.md(f"![{name}](data:image/png;base64,{data})")
