"""Figures of losses and scores: functions from plain tables to a ``Figure``.

Nothing here shows a figure, chooses a path or touches pyplot. Figures of instruments, alignment and
beats stand with their sections in ``ml.reports``, and share the canvas: size, ink, colours, axes
and legend.

Figures are 360 points wide, about a phone's width, and are shown larger elsewhere. They are drawn
in ``INK``, which ``figure_svg`` turns into the page's text colour, so that one figure suits a light
and a dark page. A colour stands for a model, the same in all figures, and for nothing else; the
colours of models are those of Okabe and Ito (2008), which people with any kind of colour blindness
can tell apart. All else is drawn in shades of ``INK``, and nothing is told by colour alone.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's text colour."""
WIDTH_IN = 5.0
FONT_POINTS = 9
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILION, GREY, OLIVE = "#56B4E9", "#D55E00", "#8C8C8C", "#A59B00"
MARKERS = "os^Dv<P>X*hp"
_MODEL_COLOURS = {
    "two-part": BLUE,
    "film-nce": SKY,
    "film": ORANGE,
    "contrastive": GREEN,
    "spectrum": PURPLE,
    "untrained": GREY,
    "pretrained": "#7F6000",
    "clap": VERMILION,
    "class": OLIVE,
    "starter": "#B8336A",
    "label": "#DDCC77",
    "label+contrastive": "#7A9E3B",
}
_OTHER_COLOURS = ("#44AA99", "#AA4499", "#DDCC77", "#8F7CEC", "#C06A77")
"""Of what else a row is called."""
_MAX_CURVE_POINTS = 300
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric of one model over its training."""

    model: str
    steps: np.ndarray
    """(point,) steps done."""
    values: np.ndarray
    """(point,)"""
    is_valid: bool = False
    """Measured on the valid split; drawn dashed with dots."""
    colour: str | None = None
    """Default: that of the model."""


def loss_curves(curves: Sequence[Curve], *, label: str, chance: Sequence[float] = ()) -> Figure:
    """Draw a metric over training steps, one colour a model; train solid, valid dashed.

    Args:
        curves: what to draw; long ones are thinned by averaging neighbours.
        label: of the vertical axis.
        chance: levels of a model that guesses, drawn as dotted lines.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure(height_in=3.1)
    for curve in curves:
        steps, values = thinned(curve.steps, curve.values)
        split = "valid" if curve.is_valid else "train"
        axes.plot(
            steps,
            values,
            color=curve.colour or model_colour(curve.model),
            linewidth=1.1 if curve.is_valid else 1.5,
            linestyle="--" if curve.is_valid else "-",
            marker="o" if curve.is_valid or len(steps) == 1 else None,
            markersize=3,
            label=plain(f"{curve.model}, {split}"),
        )
    for place, level in enumerate(sorted(set(chance))):
        axes.axhline(
            level, color=INK, linewidth=1, linestyle=":", label=None if place else "chance"
        )
    axes.set_xlim(left=0)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.grid(alpha=0.15, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    legend_below(figure, axes, columns=len({curve.model for curve in curves}) + bool(chance))
    return figure


def thinned(
    steps: np.ndarray, values: np.ndarray, points: int = _MAX_CURVE_POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Thin a curve to at most ``points`` points: means of neighbours; the ends stay in place."""
    if len(steps) <= points:
        return steps, values
    blocks = np.array_split(np.arange(1, len(steps) - 1), points - 2)
    groups = [np.array([0]), *blocks, np.array([len(steps) - 1])]
    return (
        np.array([steps[group].mean() for group in groups]),
        np.array([values[group].mean() for group in groups]),
    )


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A figure with its 95 % interval."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def score_bars(bars: Sequence[Bar], *, label: str, chance: float, limit: float) -> Figure:
    """Draw a metric of several models with intervals, one bar each, in the order given.

    Args:
        bars: names are models.
        label: of the horizontal axis.
        chance: drawn as a dotted line.
        limit: right end of the axis, for figures that are compared.
    """
    figure, axes = new_figure(height_in=0.9 + 0.3 * len(bars))
    colours = [model_colour(bar.name) for bar in bars]
    axes.barh(range(len(bars)), [bar.value for bar in bars], height=0.66, color=colours)
    for row, bar in enumerate(bars):
        end = bar.value
        if bar.low is not None and bar.high is not None:
            axes.plot([bar.low, bar.high], [row, row], color=INK, linewidth=1.2, marker="|")
            end = max(end, bar.high)
        axes.annotate(
            f"{bar.value:.1f}",
            (min(end, limit), row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=FONT_POINTS - 1,
        )
    axes.set_yticks(range(len(bars)), [plain(bar.name) for bar in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, limit * 1.1)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    _mark_chance(axes, chance)
    axes.set_xlabel(label)
    return figure


def _mark_chance(axes: Axes, chance: float) -> None:
    axes.axvline(chance, color=INK, linewidth=1, linestyle=":")
    axes.annotate(
        f"chance {chance:.1f}",
        (chance, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(3, 1),
        textcoords="offset points",
        color=INK,
        fontsize=FONT_POINTS - 2,
    )


def new_figure(height_in: float) -> tuple[Figure, Axes]:
    """Make a figure of the common width with one pair of axes in the page's ink."""
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
    """Put the legend of the axes below the figure, in at most three columns."""
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


def model_colour(name: str) -> str:
    """Give a model its colour, the same everywhere, with labels or without; ``"#rrggbb"``."""
    name = name.removesuffix("+label")
    place = zlib.crc32(name.encode()) % len(_OTHER_COLOURS)
    return _MODEL_COLOURS.get(name) or _OTHER_COLOURS[place]


def plain(text: str) -> str:
    """Escape a text of users: no mathematics between dollar signs."""
    return text.replace("$", r"\$")


def figure_svg(figure: Figure, name: str) -> str:
    """Turn a figure into an ``<svg>`` element to stand inside a page, in its ink and letters.

    Args:
        figure: drawn with ``INK``.
        name: goes in front of all ids, which must be unique in a page.
    """
    import matplotlib

    buffer = io.StringIO()
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "stems"}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has it
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1">', svg, count=1)
    return svg.replace(INK, "currentColor")
