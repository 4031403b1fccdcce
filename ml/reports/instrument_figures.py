"""Figures of the instrument analysis: shares per instrument (Fig. 2), presence, confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.reports.canvas import (
    BLUE,
    FONT_POINTS,
    GREEN,
    GREY,
    INK,
    ORANGE,
    SKY,
    VERMILION,
    legend_below,
    model_colour,
    new_figure,
    plain,
)
from ml.retrieval.instrument_files import SHARES
from ml.retrieval.presence import OTHER_WORDS, PRESENCES, ZERO_SHOT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARE_NAMES = (
    "right stem",
    "right track and instrument",
    "right track and category",
    "right track only",
    "right instrument only",
    "right category only",
    "nothing right",
)
"""Of ``SHARES``, in their order."""
_SHARE_COLOURS = (GREEN, BLUE, SKY, "#BFE0F5", ORANGE, "#F5D48C", "#B8B8B8")
PRESENCE_NAMES: dict[str, str] = dict(
    zip(PRESENCES, ("same text", "other words", "zero-shot", "no label"), strict=True)
)
_PRESENCE_COLOURS = {OTHER_WORDS: BLUE, ZERO_SHOT: VERMILION}
_PRESENCE_MARKS = {OTHER_WORDS: "≈ ", ZERO_SHOT: "new: "}
_MARKERS = "os^Dv<P>X*"


def share_bars(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """What the nearest stem was, one stacked bar per instrument (Riou et al., Fig. 2).

    Args:
        rows: of ``read_instruments``, one model and conditioning, in the order of the figure.
            Labels that training met in other words are blue and begin with "≈", those it never met
            are red and begin with "new:". Counts of queries stand in brackets.
    """
    figure, axes = new_figure(height_in=1.5 + 0.19 * len(rows))
    places, left = np.arange(len(rows)), np.zeros(len(rows))
    for share, name, colour in zip(SHARES, SHARE_NAMES, _SHARE_COLOURS, strict=True):
        values = np.array([row[share] for row in rows])
        axes.barh(places, values, left=left, height=0.78, color=colour, label=name)
        left += values
    labels = [
        plain(f"{_PRESENCE_MARKS.get(row['presence'], '')}{row['instrument']} ({row['queries']})")
        for row in rows
    ]
    axes.set_yticks(places, labels, fontsize=FONT_POINTS - 1)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(_PRESENCE_COLOURS.get(row["presence"], INK))
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 100)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("nearest stem, % of queries")
    legend_below(figure, axes, columns=2)
    return figure


def presence_points(
    rows: Sequence[Mapping[str, Any]], *, label: str, chance: float, has_legend: bool = True
) -> Figure:
    """A metric by what training knew of the label: one mark a model, lines are intervals.

    Args:
        rows: of ``read_scores``, one metric of the evaluation ``instruments``, all groups.
        label: of the horizontal axis.
        chance: drawn as a dotted line.
        has_legend: whether models are named below.
    """
    cells = {(row["model"], row["metric"].partition("/")[2]): row for row in rows}
    models = list(dict.fromkeys(row["model"] for row in rows))
    groups = [group for group in PRESENCES if any(group == found for _, found in cells)]
    step = 0.72 / max(1, len(models))
    figure, axes = new_figure(height_in=1.1 + 0.17 * len(models) * len(groups))
    for place, model in enumerate(models):
        found = [(i, cells[model, g]) for i, g in enumerate(groups) if (model, g) in cells]
        heights = [i + (place - (len(models) - 1) / 2) * step for i, _ in found]
        colour = model_colour(model)
        for height, (_, row) in zip(heights, found, strict=True):
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [height] * 2, color=colour, linewidth=1.4)
        axes.plot(
            [row["value"] for _, row in found],
            heights,
            color=colour,
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=5,
            linestyle="none",
            label=plain(model),
        )
    axes.axvline(chance, color=INK, linewidth=1, linestyle=":", label="chance")
    counts = {row["metric"].partition("/")[2]: row["n_queries"] for row in rows}
    names = [f"{PRESENCE_NAMES[group]} ({counts[group]})" for group in groups]
    axes.set_yticks(range(len(groups)), names)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.15, color=INK)
    if has_legend:
        legend_below(figure, axes, columns=3)
    return figure


def confusion_matrix(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Which category was found instead of the right stem, percent of each row.

    Args:
        rows: of ``read_confusion``, one model and conditioning.
    """
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    asked = sorted({row["category"] for row in rows})
    found = sorted({row["nearest_category"] for row in rows} | set(asked))
    shares, counts = np.zeros((len(asked), len(found))), dict.fromkeys(asked, 0)
    for row in rows:
        shares[asked.index(row["category"]), found.index(row["nearest_category"])] = row["share"]
        counts[row["category"]] += row["queries"]
    figure, axes = new_figure(height_in=1.9 + 0.27 * len(asked))
    clear_to_blue = LinearSegmentedColormap.from_list(
        "shares", [(*to_rgb(BLUE), 0.0), (*to_rgb(BLUE), 0.75)]
    )
    axes.pcolormesh(shares, cmap=clear_to_blue, vmin=0, vmax=100, edgecolors=GREY, linewidth=0.2)
    for (i, j), share in np.ndenumerate(shares):
        if share:
            axes.text(
                *(j + 0.5, i + 0.5, f"{share:.0f}"),
                ha="center",
                va="center",
                fontsize=FONT_POINTS - 2,
                color=INK,
            )
    axes.set_yticks(
        np.arange(len(asked)) + 0.5,
        [plain(f"{name} ({counts[name]})") for name in asked],
        fontsize=FONT_POINTS - 1,
    )
    axes.set_xticks(
        np.arange(len(found)) + 0.5,
        [plain(name) for name in found],
        rotation=90,
        fontsize=FONT_POINTS - 1,
    )
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_ylabel("looked for")
    axes.set_xlabel("found instead")
    return figure
