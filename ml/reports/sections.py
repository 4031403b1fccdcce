"""The figures of losses, scores and alignment as the template takes them.

Beats and instruments have modules of their own, which make ``Plot`` too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml.artifacts import DataLayout
from ml.figures import (
    INK,
    MARKERS,
    Bar,
    Curve,
    figure_svg,
    legend_below,
    loss_curves,
    model_colour,
    new_figure,
    plain,
    score_bars,
)
from ml.reports.scored import METRIC_NAMES, RANKED_BY, ScoreTable, artifact_version, by_model
from ml.reports.trained import TrainedModel
from ml.retrieval.evaluation.alignment import EVALUATION, read_offsets
from ml.scores.files import read_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHANCE = 50.0


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure in the page."""

    title: str
    svg: str
    alt: str
    """What it shows, for those who do not see it."""
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class _CurveKind:
    metric: str
    title: str
    caption: str
    chance: Callable[[int], float] | None = None
    """Level of a model that guesses, by batch size."""


_CURVES = (
    _CurveKind(
        metric="contrastive/loss",
        title="Phase 1: contrastive loss",
        caption="NT-Xent; chance is ln(2 · batch − 1).",
        chance=lambda batch: math.log(2 * batch - 1),
    ),
    _CurveKind(
        metric="contrastive/right",
        title="Phase 1: own target nearest in the batch",
        caption="Share of contexts whose nearest target is their own; chance is 1 / batch.",
        chance=lambda batch: 1 / batch,
    ),
    _CurveKind(
        metric="jepa/loss",
        title="Phase 2: what is minimised",
        caption="Prediction loss, plus the weighted contrastive term where a model has one.",
    ),
    _CurveKind(
        metric="jepa/patch_loss",
        title="Phase 2: prediction loss",
        caption="2 · (1 - cosine) of predicted and target patch; unrelated patches have 2.",
    ),
    _CurveKind(
        metric="jepa/nce_loss",
        title="Phase 2: conditioned contrastive term",
        caption="Unweighted; chance is ln(batch).",
        chance=math.log,
    ),
    _CurveKind(
        metric="jepa/right",
        title="Phase 2: own target nearest in the batch",
        caption="Share of predictions whose nearest target is their own; chance is 1 / batch.",
        chance=lambda batch: 1 / batch,
    ),
)


def curve_plots(models: Sequence[TrainedModel]) -> list[Plot]:
    """Draw the loss curves of all models, one figure a metric that was recorded."""
    plots = []
    for kind in _CURVES:
        having = [model for model in models if kind.metric in model.curves]
        if not having:
            continue
        curves = [curve for model in having for curve in model.curves[kind.metric]]
        chance = [kind.chance(model.batch_size) for model in having] if kind.chance else []
        figure = loss_curves(curves, label=kind.metric, chance=chance)
        plots.append(
            Plot(
                title=kind.title,
                svg=figure_svg(figure, f"curve{len(plots)}"),
                alt=f"{kind.metric} over training steps. " + " ".join(map(_ends, curves)),
                caption=kind.caption,
            )
        )
    return plots


def _ends(curve: Curve) -> str:
    split = "valid" if curve.is_valid else "train"
    return (
        f"{curve.model}, {split}: from {curve.values[0]:.3g} to {curve.values[-1]:.3g} "
        f"at step {curve.steps[-1]:.0f}."
    )


def score_plots(tables: Sequence[ScoreTable]) -> list[Plot]:
    """Draw recall@10 with intervals, one figure a table, all on one scale."""
    bars = [_bars(table) for table in tables]
    ends = [bar.value if bar.high is None else bar.high for own in bars for bar in own]
    limit = min(100.0, 10 * math.ceil(max(ends, default=100.0) / 10))
    plots = []
    for place, (table, own) in enumerate(zip(tables, bars, strict=True)):
        chance = table.chance[RANKED_BY]
        figure = score_bars(own, label="Recall@10 in %", chance=chance, limit=limit)
        values = ", ".join(f"{bar.name} {bar.value:.1f} %{_between(bar)}" for bar in own)
        plots.append(
            Plot(
                title=f"{METRIC_NAMES[RANKED_BY]} on {table.corpus}{conditioned(table)}",
                svg=figure_svg(figure, f"score{place}"),
                alt=f"Recall@10 on {table.corpus}: {values}; chance {chance:.1f} %.",
                caption="Lines: 95 % intervals. Dotted: chance.",
            )
        )
    return plots


def _bars(table: ScoreTable) -> list[Bar]:
    rows = {name: scores[RANKED_BY] for name, scores in table.models.items() if RANKED_BY in scores}
    return [
        Bar(name=name, value=row["value"], low=row["low"], high=row["high"])
        for name, row in rows.items()
    ]


def _between(bar: Bar) -> str:
    return "" if bar.low is None else f" ({bar.low:.1f} to {bar.high:.1f})"


def conditioned(table: ScoreTable) -> str:
    """Say how queries were conditioned where not the usual way, to stand behind a corpus."""
    return "" if table.conditioning == "fine" else f", {table.conditioning} labels"


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
