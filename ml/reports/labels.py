"""The report's section on what label encoders take for alike.

[labels_figure] Which instruments a label encoder takes for alike: cosines of all labels of the
taxonomy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ml.figures import INK, figure_svg
from ml.labels.taxonomy import CATEGORIES
from ml.reports.sections import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ml.labels.encoder import LabelEncoder


def label_plots(encoders: Sequence[LabelEncoder]) -> list[Plot]:
    """One matrix per encoder."""
    plots = []
    for encoder in encoders:
        found = label_similarities(encoder)
        plots.append(
            Plot(
                title=f"Labels as {found.encoder} sees them",
                svg=figure_svg(similarity_figure(found), f"labels-{found.encoder}"),
                alt=f"Cosines between {len(found.texts)} instruments by {found.encoder}: mean "
                f"{found.within:.2f} within a category, {found.between:.2f} between categories.",
                caption=f"Mean cosine within a category {found.within:.2f}, between categories "
                f"{found.between:.2f}.",
            )
        )
    return plots


_WIDTH_IN, _HEIGHT_IN = 7.8, 7.5


_FONT_POINTS = 6


@dataclass(frozen=True, kw_only=True)
class LabelSimilarities:
    """Cosines between the instruments of the taxonomy, by one label encoder."""

    encoder: str
    """Its name."""
    texts: tuple[str, ...]
    """(label,) in the order of the taxonomy."""
    categories: tuple[str, ...]
    """(label,)"""
    cosines: np.ndarray
    """(label, label) -1…1, symmetric, 1 on the diagonal."""

    @property
    def within(self) -> float:
        """Mean cosine of two different labels of one category."""
        return float(self.cosines[self._is_same & ~np.eye(len(self.texts), dtype=bool)].mean())

    @property
    def between(self) -> float:
        """Mean cosine of two labels of different categories."""
        return float(self.cosines[~self._is_same].mean())

    @property
    def _is_same(self) -> np.ndarray:
        names = np.array(self.categories)
        return names[:, None] == names


def label_similarities(encoder: LabelEncoder) -> LabelSimilarities:
    """Encode the instruments of the taxonomy and compare each with each."""
    rows = [(category, text) for category, texts in CATEGORIES.items() for text in texts]
    texts = tuple(text for _, text in rows)
    vectors = encoder.encode(texts).astype(np.float64)
    return LabelSimilarities(
        encoder=encoder.name,
        texts=texts,
        categories=tuple(category for category, _ in rows),
        cosines=np.clip(vectors @ vectors.T, -1, 1),
    )


def similarity_figure(similarities: LabelSimilarities) -> Figure:
    """The matrix as an image; lines part the categories, which are named on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(similarities.cosines, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    texts = similarities.texts
    ticks = np.arange(len(texts))
    axes.set_xticks(ticks, texts, rotation=90, fontsize=_FONT_POINTS, color=INK)
    axes.set_yticks(ticks, texts, fontsize=_FONT_POINTS, color=INK)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    names = np.array(similarities.categories)
    borders = np.flatnonzero(names[1:] != names[:-1]) + 0.5
    for border in borders:
        axes.axhline(border, color="white", linewidth=0.8)
        axes.axvline(border, color="white", linewidth=0.8)
    edges = [-0.5, *borders, len(texts) - 0.5]
    for first, last in pairwise(edges):
        middle = (first + last) / 2
        name = names[int(np.ceil(first))]
        axes.text(len(texts) - 0.2, middle, name, fontsize=_FONT_POINTS, color=INK, va="center")
    bar = figure.colorbar(
        image, ax=axes, location="top", shrink=0.4, aspect=40, pad=0.01, extend="min"
    )
    bar.set_label("cosine", color=INK, fontsize=_FONT_POINTS + 1)
    bar.ax.tick_params(colors=INK, labelsize=_FONT_POINTS)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure
