"""The report's sections on temporal alignment, one a corpus that was evaluated for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml.artifacts import DataLayout
from ml.figures import INK, MARKERS, figure_svg, legend_below, model_colour, new_figure, plain
from ml.reports.scored import ScoreTable, artifact_version, by_model
from ml.reports.sections import Plot
from ml.retrieval.evaluation.alignment import EVALUATION, read_offsets
from ml.scores.files import read_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHANCE = 50.0


@dataclass(frozen=True, kw_only=True)
class AlignmentSection:
    """What the template shows of one corpus."""

    title: str
    n_queries: int
    n_stems: int
    models: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """Model → metric → row."""
    chance: Mapping[str, float]
    plot: Plot


def alignment_inputs(layout: DataLayout, tables: Sequence[ScoreTable]) -> dict[str, str]:
    """Fingerprint the evaluations that the sections are made from."""
    versions = {t.corpus: artifact_version(layout.scores(EVALUATION, t.corpus)) for t in tables}
    return {corpus: version for corpus, version in versions.items() if version is not None}


def alignment_sections(layout: DataLayout, tables: Sequence[ScoreTable]) -> list[AlignmentSection]:
    """Make a section for each corpus that was evaluated; it is no stage of the pipeline."""
    return [
        _section(layout, corpus, place)
        for place, corpus in enumerate(alignment_inputs(layout, tables))
    ]


def _section(layout: DataLayout, corpus: str, place: int) -> AlignmentSection:
    scores = read_scores(layout, evaluation=EVALUATION, corpus=corpus)
    offsets = read_offsets(layout, corpus)
    here = {row["model"]: row["value"] for row in offsets if row["offset_s"] == 0}
    said = ", ".join(f"{model} {value:.1f} %" for model, value in here.items())
    return AlignmentSection(
        title=corpus,
        n_queries=scores[0]["n_queries"],
        n_stems=scores[0]["n_gallery"],
        models=by_model(scores),
        chance={row["metric"]: row["chance"] for row in scores},
        plot=Plot(
            title=f"Rank by distance in time: {corpus}",
            svg=figure_svg(offset_curves(offsets), f"alignment{place}"),
            alt=f"Mean rank of the chunk of the same time: {said}; chance 50 %.",
            caption="Shaded: 95 % intervals. A peak at 0 says that the model tells the time.",
        ),
    )


def offset_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw one curve a model with its 95 % interval; the best rank is at the top.

    Args:
        rows: of ``ml.retrieval.evaluation.alignment.read_offsets``.
    """
    figure, axes = new_figure(height_in=3.3)
    models = list(dict.fromkeys(row["model"] for row in rows))
    for place, model in enumerate(models):
        curve = sorted((r for r in rows if r["model"] == model), key=lambda r: r["offset_s"])
        offsets, colour = [row["offset_s"] for row in curve], model_colour(model)
        axes.fill_between(
            offsets,
            [row["low"] for row in curve],
            [row["high"] for row in curve],
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
        axes.plot(
            offsets,
            [row["value"] for row in curve],
            color=colour,
            linewidth=1.4,
            marker=MARKERS[place % len(MARKERS)],
            markersize=3.5,
            label=plain(model),
        )
    axes.axhline(_CHANCE, color=INK, linewidth=1, linestyle=":", label="chance")
    axes.invert_yaxis()
    axes.set_xlabel("stem chunk minus query, seconds")
    axes.set_ylabel("mean rank in %, 0 is first")
    axes.grid(alpha=0.15, color=INK)
    legend_below(figure, axes, columns=3)
    return figure
