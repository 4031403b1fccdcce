"""The figures of losses, scores and galleries as the template takes them.

Instruments and alignment have modules of their own, which make ``Plot`` too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml.artifacts import DataLayout
from ml.figures import (
    Bar,
    Curve,
    embedding_map,
    figure_svg,
    loss_curves,
    principal_plane,
    score_bars,
)
from ml.parquet import read_table
from ml.reports.scored import METRIC_NAMES, RANKED_BY, ScoreTable
from ml.reports.trained import TrainedModel
from ml.retrieval.embeddings.files import GALLERY, read_embedding_manifest, vectors_of


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
    """Loss curves of all models, one figure a metric that was recorded."""
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
    """Recall@10 with intervals, one figure a table, all on one scale."""
    bars = {id(table): _bars(table) for table in tables}
    ends = [bar.value if bar.high is None else bar.high for found in bars.values() for bar in found]
    limit = min(100.0, 10 * math.ceil(max(ends, default=100.0) / 10))
    plots = []
    for place, table in enumerate(tables):
        found, chance = bars[id(table)], table.chance[RANKED_BY]
        figure = score_bars(found, label="Recall@10 in %", chance=chance, limit=limit)
        values = ", ".join(f"{bar.name} {bar.value:.1f} %{_between(bar)}" for bar in found)
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
    """How queries were conditioned where it is not the usual way, to stand behind a corpus."""
    return "" if table.conditioning == "fine" else f", {table.conditioning} labels"


def map_plots(layout: DataLayout, tables: Sequence[ScoreTable]) -> tuple[list[Plot], list[str]]:
    """A map of each corpus's gallery by its best model; and what is missing for one."""
    plots: list[Plot] = []
    missing: list[str] = []
    for table in {table.corpus: table for table in reversed(tables)}.values():
        path = gallery_path(layout, table)
        if path is None or not path.is_file():
            missing.append(
                f"There is no map of {table.corpus}: it has no embeddings by {table.best}. "
                f"Make them with: stems embed {table.corpus}"
            )
            continue
        gallery = read_table(path)
        points, shares = principal_plane(vectors_of(gallery))
        categories = gallery["category"].to_pylist()
        figure = embedding_map(points, categories, shares)
        kinds = len(set(categories))
        plots.append(
            Plot(
                title=f"Gallery of {table.corpus} by {table.best}",
                svg=figure_svg(figure, f"map{len(plots)}"),
                alt=f"Map of {len(points)} stems of {kinds} instrument categories on the first two "
                f"principal components, which hold {shares.sum():.0f} % of the variance.",
                caption="One mark a stem. Near marks need not be near in all dimensions.",
            )
        )
    return plots[::-1], missing


def gallery_path(layout: DataLayout, table: ScoreTable) -> Path | None:
    """Where the gallery of a table's best model lies; None when it was not embedded."""
    folder = layout.embeddings(table.model_ids.get(table.best, "unknown"), table.corpus)
    if not (folder / "manifest.json").is_file():
        return None
    read_embedding_manifest(layout, folder.parent.name, table.corpus)
    return folder / GALLERY
