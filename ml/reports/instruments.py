"""Presence groups, Fig. 2 and confusion: the report's sections on instruments, one a corpus.

The same figures, with the metrics, go to the MLflow runs that trained the models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import MANIFEST_NAME, Artifact, DataLayout, read_json
from ml.figures import (
    FONT_POINTS,
    INK,
    MARKERS,
    figure_svg,
    legend_below,
    model_colour,
    new_figure,
    plain,
)
from ml.reports.scored import ScoreTable, artifact_version, by_model
from ml.reports.sections import Plot, conditioned
from ml.retrieval.evaluation.instruments import (
    EVALUATION,
    MADE_BY,
    SHARES,
    read_confusion,
    read_instruments,
)
from ml.retrieval.evaluation.presence import OTHER_WORDS, PRESENCES, ZERO_SHOT, checkpoint_manifests
from ml.scores.files import log_scores, read_artifact_scores, read_scores

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
PRESENCE_NAMES: dict[str, str] = dict(
    zip(PRESENCES, ("same text", "other words", "zero-shot", "no label"), strict=True)
)
_SHARE_LOOKS = (0.9, 0.65, 0.45, 0.2, "////////", "////", "...")
"""Opacity or hatching of ``SHARES``: what is plain is of the right song."""
_PRESENCE_MARKS = {OTHER_WORDS: "≈ ", ZERO_SHOT: "new: "}
_TABLE_METRICS = {"recall@1": "R@1", "normalized_rank_mean": "NR mean"}
_PLOTTED = {"recall@10": "Recall@10 in %", "normalized_rank_mean": "mean normalised rank in %"}
_DPI = 130
_FOLDER = "instruments"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class InstrumentSection:
    """What the template shows of one corpus and conditioning."""

    title: str
    corpus: str
    best: str
    """The model whose instruments are shown."""
    columns: Mapping[str, str]
    """A metric over the queries of one presence group → what to call it."""
    presence: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """Model → metric → row."""
    chance: Mapping[str, float]
    threshold: float
    facts: Sequence[str]
    plots: Sequence[Plot]
    rows: Sequence[Mapping[str, Any]]
    """Of ``read_instruments``, of the best model."""


def instrument_inputs(layout: DataLayout, tables: Sequence[ScoreTable]) -> dict[str, str | None]:
    """Fingerprint the analyses that the sections are made from."""
    return {t.corpus: artifact_version(layout.scores(EVALUATION, t.corpus)) for t in tables}


def instrument_sections(
    layout: DataLayout, tables: Sequence[ScoreTable]
) -> tuple[list[InstrumentSection], list[str]]:
    """Make a section for each table that was analysed; and say what the others lack."""
    sections: list[InstrumentSection] = []
    missing: list[str] = []
    versions = instrument_inputs(layout, tables)
    for table in tables:
        if versions[table.corpus] is None:
            missing.append(
                f"There is no instrument analysis of {table.corpus}. Make it with: "
                f"{MADE_BY} {table.corpus}"
            )
            continue
        section = _section(layout, table, len(sections))
        if section is None:
            missing.append(
                f"The instrument analysis of {table.corpus}{conditioned(table)} lacks "
                f"{table.best}. Make it again with: {MADE_BY} {table.corpus}"
            )
        else:
            sections.append(section)
    return sections, missing


def _section(layout: DataLayout, table: ScoreTable, place: int) -> InstrumentSection | None:
    scores = [
        row
        for row in read_scores(layout, evaluation=EVALUATION, corpus=table.corpus)
        if row["conditioning"] == table.conditioning and row["model"] in table.models
    ]
    analysed = by_model(scores)
    presence = {model: analysed[model] for model in table.models if model in analysed}
    if table.best not in presence:
        return None
    best = presence[table.best]
    manifest = read_json(layout.scores(EVALUATION, table.corpus) / MANIFEST_NAME)
    rows = _of(read_instruments(layout, table.corpus), table)
    return InstrumentSection(
        title=f"{table.corpus}{conditioned(table)}",
        corpus=table.corpus,
        best=table.best,
        columns={
            metric: f"{name}, {PRESENCE_NAMES[group]} ({best[metric]['n_queries']})"
            for group in PRESENCES
            for measured, name in _TABLE_METRICS.items()
            if (metric := f"{measured}/{group}") in best
        },
        presence=presence,
        chance={row["metric"]: row["chance"] for row in scores},
        threshold=manifest["identity"]["threshold"],
        facts=list(_facts(best)),
        plots=_plots(layout, table, scores, rows, place),
        rows=rows,
    )


def _of(rows: Sequence[Mapping[str, Any]], table: ScoreTable) -> list[Mapping[str, Any]]:
    """Choose the rows of the best model under the table's conditioning."""
    wanted = (table.best, table.conditioning)
    return [row for row in rows if (row["model"], row["conditioning"]) == wanted]


def _facts(best: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say in words what the best model finds."""
    said = []
    if (row := best.get(f"recall@1/{ZERO_SHOT}")) is not None:
        said.append(f"{row['value']:.1f} % of the zero-shot queries found at once")
    if (row := best.get("recall@1/or-same-label")) is not None:
        said.append(f"{row['value']:.1f} % counting another stem of the same song and label")
    if (row := best.get("right_category")) is not None:
        track = best["right_category_and_track"]["value"]
        said.append(f"right category {row['value']:.1f} %, in the right song {track:.1f} %")
    return said


def _plots(
    layout: DataLayout,
    table: ScoreTable,
    scores: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    place: int,
) -> list[Plot]:
    what = f"{table.best} on {table.corpus}{conditioned(table)}"
    confused = _of(read_confusion(layout, table.corpus), table)
    plots = []
    if rows:
        bars = ", ".join(f"{row['instrument']} {row['right_stem']:.0f} %" for row in rows)
        plots.append(
            Plot(
                title=f"Nearest stem by instrument: {what}",
                svg=figure_svg(share_bars(rows), f"share{place}"),
                alt=f"Share of queries of {what} whose nearest stem is the right one: {bars}.",
                caption="In brackets: queries. ≈ training has the label in other words. "
                "new: it does not have it (zero-shot).",
            )
        )
    for metric, label in _PLOTTED.items():
        chosen = [row for row in scores if row["metric"].startswith(f"{metric}/")]
        chosen = [row for row in chosen if row["metric"].partition("/")[2] in PRESENCES]
        figure = presence_points(chosen, label=label, chance=chosen[0]["chance"])
        said = ", ".join(
            f"{row['model']} {row['metric'].partition('/')[2]} {row['value']:.1f}" for row in chosen
        )
        plots.append(
            Plot(
                title=f"{label[:1].upper()}{label[1:-5]} by presence: {table.corpus}",
                svg=figure_svg(figure, f"presence{place}-{metric.partition('@')[0]}"),
                alt=f"{label} by presence of the label in training: {said}.",
                caption="Lines: 95 % intervals. In brackets: queries.",
            )
        )
    if confused:
        said = ", ".join(
            f"{r['category']} → {r['nearest_category']} {r['share']:.0f} %" for r in confused
        )
        plots.append(
            Plot(
                title=f"Which stem instead: {what}",
                svg=figure_svg(confusion_matrix(confused), f"confusion{place}"),
                alt=f"Category found instead, of queries that found another stem: {said}.",
                caption="Percent of each row; in brackets: queries that found another stem.",
            )
        )
    return plots


def share_bars(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw what the nearest stem was, one stacked bar per instrument (Riou et al., Fig. 2).

    Args:
        rows: of ``read_instruments``, one model and conditioning, in the order of the figure.
            Labels that training met in other words begin with "≈", those it never met with "new:".
            Counts of queries stand in brackets.
    """
    figure, axes = new_figure(height_in=1.5 + 0.19 * len(rows))
    places, left = np.arange(len(rows)), np.zeros(len(rows))
    for share, name, look in zip(SHARES, SHARE_NAMES, _SHARE_LOOKS, strict=True):
        values = np.array([row[share] for row in rows])
        is_hatched = isinstance(look, str)
        axes.barh(
            places,
            values,
            left=left,
            height=0.78,
            facecolor="none" if is_hatched else (INK, look),
            hatch=look if is_hatched else None,
            edgecolor=INK,
            linewidth=0,
            label=name,
        )
        left += values
    labels = [
        plain(f"{_PRESENCE_MARKS.get(row['presence'], '')}{row['instrument']} ({row['queries']})")
        for row in rows
    ]
    axes.set_yticks(places, labels, fontsize=FONT_POINTS - 1)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 100)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("nearest stem, % of queries")
    legend_below(figure, axes, columns=2)
    return figure


def presence_points(rows: Sequence[Mapping[str, Any]], *, label: str, chance: float) -> Figure:
    """Draw a metric by what training knew of the label: one mark a model, lines are intervals.

    Args:
        rows: of ``read_scores``, one metric of the evaluation ``instruments``, all groups.
        label: of the horizontal axis.
        chance: drawn as a dotted line.
    """
    cells = {(row["model"], row["metric"].partition("/")[2]): row for row in rows}
    models = list(dict.fromkeys(row["model"] for row in rows))
    groups = [group for group in PRESENCES if any(group == known for _, known in cells)]
    step = 0.72 / max(1, len(models))
    figure, axes = new_figure(height_in=1.1 + 0.17 * len(models) * len(groups))
    for place, model in enumerate(models):
        own = [(i, cells[model, g]) for i, g in enumerate(groups) if (model, g) in cells]
        heights = [i + (place - (len(models) - 1) / 2) * step for i, _ in own]
        colour = model_colour(model)
        for height, (_, row) in zip(heights, own, strict=True):
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [height] * 2, color=colour, linewidth=1.4)
        axes.plot(
            [row["value"] for _, row in own],
            heights,
            color=colour,
            marker=MARKERS[place % len(MARKERS)],
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
    legend_below(figure, axes, columns=3)
    return figure


def confusion_matrix(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw which category was found instead of the right stem, percent of each row.

    Args:
        rows: of ``read_confusion``, one model and conditioning.
    """
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    asked = sorted({row["category"] for row in rows})
    found = sorted({row["nearest_category"] for row in rows} | set(asked))
    shares, counts = np.zeros((len(asked), len(found))), dict.fromkeys(asked, 0)
    for row in rows:
        shares[asked.index(row["category"]), found.index(row["nearest_category"])] = row["share"]
        counts[row["category"]] += row["queries"]
    figure, axes = new_figure(height_in=1.9 + 0.27 * len(asked))
    shades = LinearSegmentedColormap.from_list("", [to_rgba(INK, 0), to_rgba(INK, 0.4)])
    axes.pcolormesh(shares, cmap=shades, vmin=0, vmax=100, edgecolors=(INK, 0.2), linewidth=0.2)
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


def track_instruments(layout: DataLayout, corpus: str, artifact: Artifact, uri: str) -> list[str]:
    """Send the analysis of a corpus to the runs of its models.

    Metrics go as ``ml.scores.files`` says; figures are called
    ``instruments/<corpus>-<conditioning>-<what>-<version>.png``, so that none is sent twice.

    Args:
        layout: where checkpoints and scores lie.
        corpus: its name.
        artifact: what ``evaluate_instruments`` returned.
        uri: of the tracking store; when it cannot be reached, a warning is all that happens.

    Returns:
        The models whose runs now hold it.
    """
    rows = read_artifact_scores(artifact)
    runs = _runs(layout, artifact)
    done = log_scores(artifact, rows, runs, uri)
    figures = _figures(layout, corpus, artifact.fingerprint[:8])
    return [name for name in done if _send(uri, runs[name], figures.get(name, {}))]


def _runs(layout: DataLayout, artifact: Artifact) -> dict[str, str]:
    """Map model → MLflow run, for the models of the analysis that have one."""
    known = {m["model_id"]: m.get("mlflow_run_id") for m in checkpoint_manifests(layout)}
    models = dict(read_json(artifact.path / MANIFEST_NAME)["identity"]["models"])
    runs = {name: known.get(model_id) for name, model_id in models.items()}
    return {name: run_id for name, run_id in runs.items() if run_id}


def _figures(
    layout: DataLayout, corpus: str, version: str
) -> dict[str, dict[str, Callable[[], Any]]]:
    """List model → file name → what draws the figure."""
    figures: dict[str, dict[str, Callable[[], Any]]] = {}
    drawn = (
        ("shares", read_instruments(layout, corpus), share_bars),
        ("confusion", read_confusion(layout, corpus), confusion_matrix),
    )
    for what, rows, draw in drawn:
        for model, conditioning in dict.fromkeys((r["model"], r["conditioning"]) for r in rows):
            chosen = [r for r in rows if (r["model"], r["conditioning"]) == (model, conditioning)]
            name = f"{_FOLDER}/{corpus}-{conditioning}-{what}-{version}.png"
            figures.setdefault(model, {})[name] = partial(draw, chosen)
    return figures


def _send(uri: str, run_id: str, figures: Mapping[str, Callable[[], Any]]) -> bool:
    from mlflow.exceptions import MlflowException

    from ml.mlflow_store import mlflow_client

    try:
        client = mlflow_client(uri)
        known = {file.path for file in client.list_artifacts(run_id, _FOLDER)}
        save = {"dpi": _DPI, "facecolor": "white"}
        for name, draw in figures.items():
            if name not in known:
                client.log_figure(run_id, draw(), name, save_kwargs=save)
    except (MlflowException, OSError) as error:
        _log.warning("figures did not reach MLflow run %s: %s", run_id, error)
        return False
    return True
