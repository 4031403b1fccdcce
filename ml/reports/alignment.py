"""The report's sections on temporal alignment, one a corpus that was evaluated for it.

[alignment_figure] The figure of temporal alignment: mean rank of a stem's chunks by distance in
time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml.artifacts import MANIFEST_NAME, DataLayout, read_json
from ml.figures import INK, figure_svg, legend_below, model_colour, new_figure, plain
from ml.reports.scored import ScoreTable
from ml.reports.sections import Plot
from ml.retrieval.evaluation.alignment import EVALUATION, read_offsets
from ml.scores.files import read_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    """Fingerprints of the evaluations that the sections are made from."""
    paths = {t.corpus: layout.scores(EVALUATION, t.corpus) / MANIFEST_NAME for t in tables}
    return {c: read_json(path)["fingerprint"] for c, path in paths.items() if path.is_file()}


def alignment_sections(layout: DataLayout, tables: Sequence[ScoreTable]) -> list[AlignmentSection]:
    """A section for each corpus that was evaluated; it is no stage of the pipeline."""
    return [
        _section(layout, corpus, place)
        for place, corpus in enumerate(alignment_inputs(layout, tables))
    ]


def _section(layout: DataLayout, corpus: str, place: int) -> AlignmentSection:
    scores = read_scores(layout, evaluation=EVALUATION, corpus=corpus)
    models: dict[str, dict[str, dict[str, Any]]] = {}
    for row in scores:
        models.setdefault(row["model"], {})[row["metric"]] = row
    offsets = read_offsets(layout, corpus)
    here = {row["model"]: row["value"] for row in offsets if row["offset_s"] == 0}
    said = ", ".join(f"{model} {value:.1f} %" for model, value in here.items())
    return AlignmentSection(
        title=corpus,
        n_queries=scores[0]["n_queries"],
        n_stems=scores[0]["n_gallery"],
        models=models,
        chance={row["metric"]: row["chance"] for row in scores},
        plot=Plot(
            title=f"Rank by distance in time: {corpus}",
            svg=figure_svg(offset_curves(offsets), f"alignment{place}"),
            alt=f"Mean rank of the chunk of the same time: {said}; chance 50 %.",
            caption="Shaded: 95 % intervals. A peak at 0 says that the model tells the time.",
        ),
    )


CHANCE = 50.0


_MARKERS = "os^Dv<P>X*"


def offset_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """One curve a model with its 95 % interval; the best rank is at the top.

    Args:
        rows: of ``ml.retrieval.evaluation.alignment.read_offsets``.
    """
    figure, axes = new_figure(height_in=3.3)
    models = list(dict.fromkeys(row["model"] for row in rows))
    for place, model in enumerate(models):
        found = sorted((r for r in rows if r["model"] == model), key=lambda r: r["offset_s"])
        offsets, colour = [row["offset_s"] for row in found], model_colour(model)
        axes.fill_between(
            offsets,
            [row["low"] for row in found],
            [row["high"] for row in found],
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
        axes.plot(
            offsets,
            [row["value"] for row in found],
            color=colour,
            linewidth=1.4,
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=3.5,
            label=plain(model),
        )
    axes.axhline(CHANCE, color=INK, linewidth=1, linestyle=":", label="chance")
    axes.invert_yaxis()
    axes.set_xlabel("stem chunk minus query, seconds")
    axes.set_ylabel("mean rank in %, 0 is first")
    axes.grid(alpha=0.15, color=INK)
    legend_below(figure, axes, columns=3)
    return figure
