"""What all figures share: size, ink, colours of models and categories, axes and legend.

Figures are 360 points wide, about a phone's width, and are shown larger elsewhere. Ink is drawn in
``INK``, which ``ml.reports.svg`` turns into the page's text colour, so that a figure suits both a
light and a dark page. Nothing touches pyplot.

Colours are those of Okabe and Ito (2008), which people with any kind of colour blindness can tell
apart. A model has the same colour in all figures; nothing is told by colour alone.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from ml.corpora.taxonomy import CATEGORIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's text colour."""
WIDTH_IN = 5.0
FONT_POINTS = 9
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILION, GREY, OLIVE = "#56B4E9", "#D55E00", "#8C8C8C", "#A59B00"
_MODEL_COLOURS = {
    "film-nce": BLUE,
    "film": ORANGE,
    "contrastive": GREEN,
    "spectrum": PURPLE,
    "untrained": GREY,
    "pretrained": SKY,
    "clap": VERMILION,
    "class": OLIVE,
}
_CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, OLIVE)
_MARKERS = "os^Dv<P>X*hp"


def model_colour(name: str) -> str:
    """The colour of a model, the same everywhere; ``"#rrggbb"``."""
    return _MODEL_COLOURS.get(name) or _CYCLE[zlib.crc32(name.encode()) % len(_CYCLE)]


def category_style(category: str) -> tuple[str, str]:
    """Colour and marker of an instrument category, the same everywhere.

    The categories of the taxonomy all differ in marker, neighbours in colour too.
    """
    known = list(CATEGORIES)
    place = known.index(category) if category in known else zlib.crc32(category.encode())
    return _CYCLE[place % len(_CYCLE)], _MARKERS[place % len(_MARKERS)]


def new_figure(height_in: float) -> tuple[Figure, Axes]:
    """A figure of the common width with one pair of axes in the page's ink."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=INK, alpha=0.4)
    axes.tick_params(colors=INK, labelsize=FONT_POINTS, length=3, width=0.6)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=FONT_POINTS)
    return figure, axes


def legend_below(figure: Figure, axes: Axes, *, columns: int) -> None:
    """The legend of the axes below the figure, in at most three columns."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(columns, 3, len(handles)),
            frameon=False,
            fontsize=FONT_POINTS - 1,
            labelcolor=INK,
            handlelength=1.8,
            columnspacing=1.2,
        )


def plain(text: str) -> str:
    """Text of users as it is: no mathematics between dollar signs."""
    return text.replace("$", r"\$")
