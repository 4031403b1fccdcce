"""Rendering: from a template and its content to one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml.artifacts import fingerprint
from ml.figures import model_colour
from ml.reports.instruments import PRESENCE_NAMES, SHARE_NAMES
from ml.reports.scored import METRIC_NAMES, RANKED_BY
from ml.reports.sections import conditioned
from ml.retrieval.evaluation.evaluate import LOWER_IS_BETTER
from ml.retrieval.evaluation.instruments import SHARES
from ml.scores.intervals import INTERVALS_SAID

_FOLDER = Path(__file__).parent


def render_page(template: str, **content: Any) -> str:
    """Render the page as text; every name that the template uses must be given."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        colour=model_colour,
        conditioned=conditioned,
        metric_names=METRIC_NAMES,
        lower_is_better=LOWER_IS_BETTER,
        intervals_said=INTERVALS_SAID,
        ranked_by=RANKED_BY,
        presence_names=PRESENCE_NAMES,
        share_names=list(SHARE_NAMES),
        shares=list(zip(SHARE_NAMES, SHARES, strict=True)),
    )
    environment.filters.update(
        figure=_figure, signed=_signed, duration=_duration, count=_count, p=p_text
    )
    return environment.get_template(template).render(**content)


def templates_fingerprint() -> str:
    """Fingerprint all that pages are rendered from."""
    files = sorted([*_FOLDER.glob("*.jinja"), *_FOLDER.glob("*.css")])
    return fingerprint({path.name: path.read_text() for path in files})


def p_text(p: float) -> str:
    """Write a p-value with as many digits as matter: "0.23", "0.004", "< 0.001"."""
    if p < 0.001:
        return "< 0.001"
    return f"{p:.2f}" if p >= 0.095 else f"{p:.3f}"


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def _duration(seconds: float | None) -> str:
    """Round a duration: "5 min", "2 h 10 min"."""
    if seconds is None:
        return "not recorded"
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _count(counts: Mapping[str, int]) -> str:
    """Write the parameters by part: "encoder 0.8 M, predictor 0.5 M"."""
    return ", ".join(f"{part} {n / 1e6:.2g} M" for part, n in counts.items()) or "none"
