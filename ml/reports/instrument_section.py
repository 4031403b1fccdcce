"""The report's sections on instruments: presence groups, Fig. 2, confusion, one a corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml.artifacts import MANIFEST_NAME, DataLayout, read_json
from ml.reports.instrument_figures import (
    PRESENCE_NAMES,
    confusion_matrix,
    presence_points,
    share_bars,
)
from ml.reports.scored import ScoreTable
from ml.reports.sections import Plot, conditioned
from ml.reports.svg import figure_svg
from ml.retrieval.instrument_files import EVALUATION, MADE_BY, read_confusion, read_instruments
from ml.retrieval.presence import PRESENCES, ZERO_SHOT
from ml.retrieval.score_files import read_scores

_TABLE_METRICS = {"recall@1": "R@1", "normalized_rank_mean": "NR mean"}
_PLOTTED = {"recall@10": "Recall@10 in %", "normalized_rank_mean": "mean normalised rank in %"}


@dataclass(frozen=True, kw_only=True)
class PresenceColumn:
    """A metric over the queries of one presence group."""

    metric: str
    name: str
    group: str
    n_queries: int


@dataclass(frozen=True, kw_only=True)
class InstrumentSection:
    """What the template shows of one corpus and conditioning."""

    title: str
    corpus: str
    best: str
    """The model whose instruments are shown."""
    columns: Sequence[PresenceColumn]
    presence: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """Model → metric → row."""
    chance: Mapping[str, float]
    """Metric without its group → percent."""
    threshold: float
    facts: Sequence[str]
    plots: Sequence[Plot]
    rows: Sequence[Mapping[str, Any]]
    """Of ``read_instruments``, of the best model."""


def instrument_inputs(layout: DataLayout, tables: Sequence[ScoreTable]) -> dict[str, str | None]:
    """Fingerprints of the analyses that the sections are made from."""
    return {table.corpus: _fingerprint(layout, table.corpus) for table in tables}


def instrument_sections(
    layout: DataLayout, tables: Sequence[ScoreTable]
) -> tuple[list[InstrumentSection], list[str]]:
    """A section for each table that was analysed; and what is missing for the others."""
    sections: list[InstrumentSection] = []
    missing: list[str] = []
    for table in tables:
        if _fingerprint(layout, table.corpus) is None:
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


def _fingerprint(layout: DataLayout, corpus: str) -> str | None:
    path = layout.scores(EVALUATION, corpus) / MANIFEST_NAME
    return read_json(path)["fingerprint"] if path.is_file() else None


def _section(layout: DataLayout, table: ScoreTable, place: int) -> InstrumentSection | None:
    scores = [
        row
        for row in read_scores(layout, evaluation=EVALUATION, corpus=table.corpus)
        if row["conditioning"] == table.conditioning and row["model"] in table.models
    ]
    found = {
        model: {r["metric"]: r for r in scores if r["model"] == model} for model in table.models
    }
    presence = {model: cells for model, cells in found.items() if cells}
    if table.best not in presence:
        return None
    best = presence[table.best]
    manifest = read_json(layout.scores(EVALUATION, table.corpus) / MANIFEST_NAME)
    rows = _of(read_instruments(layout, table.corpus), table)
    return InstrumentSection(
        title=f"{table.corpus}{conditioned(table)}",
        corpus=table.corpus,
        best=table.best,
        columns=[
            PresenceColumn(
                metric=f"{metric}/{group}",
                name=name,
                group=PRESENCE_NAMES[group],
                n_queries=best[f"{metric}/{group}"]["n_queries"],
            )
            for group in PRESENCES
            for metric, name in _TABLE_METRICS.items()
            if f"{metric}/{group}" in best
        ],
        presence=presence,
        chance={
            row["metric"].partition("/")[0]: row["chance"]
            for row in scores
            if row["metric"].partition("/")[2] in PRESENCES
        },
        threshold=manifest["identity"]["threshold"],
        facts=list(_facts(best)),
        plots=_plots(layout, table, scores, rows, place),
        rows=rows,
    )


def _of(rows: Sequence[Mapping[str, Any]], table: ScoreTable) -> list[Mapping[str, Any]]:
    """The rows of the best model under the table's conditioning."""
    wanted = (table.best, table.conditioning)
    return [row for row in rows if (row["model"], row["conditioning"]) == wanted]


def _facts(best: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the best model finds, in words."""
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
