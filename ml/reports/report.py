"""The report: one self-contained HTML page with what was trained on what, and how well it finds.

``reports/index.html`` needs no network and no script: figures are inline SVG, sounds are data
URIs, and what is long is folded. Each section appears when its artifacts exist; what is missing is
said in so many words.
``render_page`` fills any of the templates beside this file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ml import kinds
from ml.artifacts import (
    Artifact,
    ArtifactError,
    DataLayout,
    find_current,
    fingerprint,
    finish,
    write_aside,
)
from ml.figures import model_colour
from ml.locks import lock
from ml.metrics import LOWER_IS_BETTER
from ml.mlflow_store import PAGES_URL
from ml.reports.instruments import (
    PRESENCE_NAMES,
    SHARE_NAMES,
    instrument_inputs,
    instrument_sections,
)
from ml.reports.samples import Sample, sample_queries
from ml.reports.scored import (
    METRIC_NAMES,
    RANKED_BY,
    ScoreTable,
    artifact_version,
    is_share,
    leaders,
    leaves_out_0,
    read_queries,
    score_tables,
    verdict,
)
from ml.reports.sections import (
    alignment_inputs,
    alignment_sections,
    beat_inputs,
    beat_sections,
    conditioned,
    curve_plots,
    score_plots,
)
from ml.reports.trained import TrainedModel, trained_models
from ml.retrieval.evaluation.evaluate import EVALUATION
from ml.retrieval.evaluation.instruments import SHARES
from ml.scores.intervals import INTERVALS_SAID
from ml.training.models import current_champion

PAGE_NAME = "index.html"
TEMPLATE = "report.html.jinja"
TITLE = "Stem retrieval report"
HEADLINES = (RANKED_BY, "normalized_rank_mean", "right_instrument")
_FOLDER = Path(__file__).parent


def build_report(
    layout: DataLayout,
    *,
    title: str = TITLE,
    tracking_url: str = PAGES_URL,
    samples_of: str | None = None,
    n_samples: int = 10,
) -> Artifact:
    """Write the report of a home, or find it up to date.

    Args:
        layout: where everything lies; the page goes to ``layout.reports``.
        title: of the page.
        tracking_url: of the MLflow server that run links lead to; a user and password in it are
            left out.
        samples_of: corpus whose sample queries can be listened to; default: all with scores.
        n_samples: how many sample queries, shared by these corpora; about 0.2 MB each.

    Returns:
        The artifact: ``index.html``, and the manifest, whose list ``missing`` says in sentences
        what the page could not show.

    Raises:
        ArtifactError: an artifact that exists is damaged or has a newer format.
        ValueError: there are scores, but none of ``samples_of``.
    """
    tables, champion = score_tables(layout), current_champion(layout)
    read = _Read(
        models=trained_models(layout),
        tables=tables,
        sampled=_sampled(tables, samples_of),
        champion_id=champion and champion.model_id,
    )
    told = {
        "title": title,
        "tracking_url": _without_secrets(tracking_url),
        "n_samples": n_samples,
    }
    identity = _inputs(layout, read) | told
    current = find_current(layout.reports, identity, kinds.REPORT)
    if current is not None and (layout.reports / PAGE_NAME).is_file():
        return current
    with lock(layout.reports / ".lock"):
        page, missing = _page(layout, read, told)
        with write_aside(layout.reports / PAGE_NAME) as aside:
            aside.write_text(page, encoding="utf-8")
        summary = {
            "megabytes": round(len(page.encode()) / 1e6, 2),
            "models": len(read.models),
            "score_tables": len(tables),
            "missing": len(missing),
        }
        return finish(layout.reports, identity, kinds.REPORT, summary=summary, missing=missing)


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What the page is made from, read once."""

    models: Sequence[TrainedModel]
    tables: Sequence[ScoreTable]
    sampled: Sequence[ScoreTable]
    """Of whose best models there are sample queries."""
    champion_id: str | None

    @property
    def champion(self) -> str | None:
        """What tables call the model that queries use."""
        scored = {i: name for table in self.tables for name, i in table.model_ids.items()}
        names = scored | {model.model_id: model.name for model in self.models}
        return names.get(self.champion_id or "")


def _inputs(layout: DataLayout, read: _Read) -> dict[str, Any]:
    """Fingerprint all that the page is made from."""
    tables = read.tables
    trained_on = {seen.corpus for model in read.models for seen in model.trained_on}
    return {
        "templates": templates_fingerprint(),
        "champion": read.champion_id,
        "models": {model.name: model.identity for model in read.models},
        "scores": {t.corpus: artifact_version(layout.scores(EVALUATION, t.corpus)) for t in tables},
        "instruments": instrument_inputs(layout, tables),
        "alignment": alignment_inputs(layout, tables),
        "beats": beat_inputs(layout),
        "galleries": {
            t.corpus: artifact_version(layout.embeddings(t.best_id, t.corpus)) for t in tables
        },
        "shards": {corpus: artifact_version(layout.shards(corpus)) for corpus in trained_on},
        "sampled": {t.corpus: artifact_version(layout.tracks(t.corpus)) for t in read.sampled},
    }


def _page(layout: DataLayout, read: _Read, told: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Render the page, and say what it lacks."""
    models, tables = read.models, read.tables
    instruments, no_instruments = instrument_sections(layout, tables)
    sampled, no_samples = _samples(layout, read.sampled, told["n_samples"])
    missing = [*_missing(models, tables), *no_instruments, *no_samples]
    page = render_page(
        TEMPLATE,
        **told,
        verdict=verdict(tables, read.champion_id),
        champion=read.champion,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        missing=missing,
        models=models,
        curves=curve_plots(models),
        tables=tables,
        score_plots=score_plots(tables),
        instruments=instruments,
        alignments=alignment_sections(layout, tables),
        beats=beat_sections(layout, read.champion),
        headlines=HEADLINES,
        sampled=sampled,
    )
    return page, missing


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def _sampled(tables: Sequence[ScoreTable], corpus: str | None) -> list[ScoreTable]:
    """Choose one table a corpus: of this corpus, or of all."""
    of_corpora = {table.corpus: table for table in reversed(tables)}
    if corpus is None or not tables:
        return list(of_corpora.values())[::-1]
    if corpus in of_corpora:
        return [of_corpora[corpus]]
    known = ", ".join(sorted(of_corpora))
    raise ValueError(f"corpus {corpus!r} has no scores; expected one of: {known}")


def _samples(
    layout: DataLayout, tables: Sequence[ScoreTable], n: int
) -> tuple[list[tuple[ScoreTable, list[Sample]]], list[str]]:
    """Sample queries of each table's best model; and say why there are none."""
    sampled: list[tuple[ScoreTable, list[Sample]]] = []
    missing: list[str] = []
    for table in tables:
        try:
            samples = sample_queries(
                layout,
                table.corpus,
                table.best_id,
                read_queries(layout, table, table.best),
                conditioning=table.conditioning,
                n=math.ceil(n / len(tables)),
            )
        except ArtifactError as error:
            missing.append(f"There are no sample queries of {table.corpus}: {error}")
            continue
        if samples:
            sampled.append((table, samples))
    return sampled, missing


def _missing(models: Sequence[TrainedModel], tables: Sequence[ScoreTable]) -> Iterator[str]:
    """Say what the report would show if it were there, and how to make it."""
    if not models:
        yield "No model has been trained. Train one with: stems train"
    for model in models:
        if model.steps and not model.curves:
            yield f"{model.name} has no loss curves: run {model.run!r} holds no metrics.jsonl."
    if not tables:
        yield "No model has been scored. Score them with: stems evaluate retrieval"
    for table in tables:
        yield from _not_scored(table, {model.name: model.model_id for model in models})


def _not_scored(table: ScoreTable, current: Mapping[str, str]) -> Iterator[str]:
    """Name models that lack scores on a corpus, or whose scores are of an earlier version."""
    remedy = f"Score it with: stems evaluate retrieval --corpus {table.corpus}"
    for name, model_id in current.items():
        scored = table.model_ids.get(name)
        if scored is None:
            yield f"{name} has no scores on {table.corpus}. {remedy}"
        elif scored != model_id:
            yield (
                f"The scores of {name} on {table.corpus} are of an earlier version ({scored}, "
                f"now {model_id}). {remedy}"
            )


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
        is_share=is_share,
        leaders=leaders,
        leaves_out_0=leaves_out_0,
        metric_names=METRIC_NAMES,
        lower_is_better=LOWER_IS_BETTER,
        intervals_said=INTERVALS_SAID,
        ranked_by=RANKED_BY,
        presence_names=PRESENCE_NAMES,
        share_names=list(SHARE_NAMES),
        shares=SHARES,
    )
    environment.filters.update(
        figure=figure_text, signed=_signed, duration=_duration, count=_count, p=p_text
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


def figure_text(value: float | None) -> str:
    """Write a figure with three digits at most: "4.4", "48.9", "100"."""
    if value is None:
        return "not measured"
    return f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"


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
