"""The figure of temporal alignment: mean rank of a stem's chunks by distance in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml.reports.canvas import INK, legend_below, model_colour, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHANCE = 50.0
_MARKERS = "os^Dv<P>X*"


def offset_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """One curve a model with its 95 % interval; the best rank is at the top.

    Args:
        rows: of ``ml.retrieval.alignment.read_offsets``.
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
