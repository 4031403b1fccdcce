"""The report's section on what label encoders take for alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml.reports.labels_figure import label_similarities, similarity_figure
from ml.reports.sections import Plot
from ml.reports.svg import figure_svg

if TYPE_CHECKING:
    from ml.models.label_encoders import LabelEncoder


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
