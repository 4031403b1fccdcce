"""Figures as ``<svg>`` elements inside a page, in the page's own ink and letters."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING

from ml.reports.figures import INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def figure_svg(figure: Figure, name: str) -> str:
    """A figure as an ``<svg>`` element to stand inside a page.

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
