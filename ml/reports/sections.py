"""The figures of losses and scores, and the sections on alignment and beats, for the templates.

The figure of beats shows some seconds of a song: log-mel, activations, decoded beats and
annotation. The sections on instruments have a module of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import MANIFEST_NAME, DataLayout, read_json
from ml.figures import (
    FONT_POINTS,
    INK,
    MARKERS,
    WIDTH_IN,
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
from ml.metrics import BEATS
from ml.reports.scored import METRIC_NAMES, RANKED_BY, ScoreTable, artifact_version, by_model
from ml.reports.trained import TrainedModel
from ml.retrieval.evaluation.alignment import EVALUATION, read_offsets
from ml.scores.files import read_scores, scored_corpora

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ml.beats.experiment import BeatExample

_CHANCE = 50.0
_BEATS, _BEATS_PAIRED, _ANNOTATION = "beats", "beats-paired", "annotation"
BEAT_COLUMNS = {name: metric.title for name, metric in BEATS.items() if metric.title}
"""Metrics that the table shows."""
_DRAWN = ("untrained", "onset curve")
"""Rows of the figure below the best trained encoder."""
_FPS = 50.0
"""Frames per second of the activations."""
_STRIP, _ROW = 1.1, 0.55
"""Heights in inches."""
_QUIET, _LOUD = 5, 99.5
"""Percentiles of the log-mel that are white and black."""


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
        _alignment_section(layout, corpus, place)
        for place, corpus in enumerate(alignment_inputs(layout, tables))
    ]


def _alignment_section(layout: DataLayout, corpus: str, place: int) -> AlignmentSection:
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


@dataclass(frozen=True, kw_only=True)
class BeatSection:
    """What the template shows of one corpus."""

    title: str
    n_tracks: int
    columns: Mapping[str, str]
    models: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """Model → metric → row."""
    differences: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """``A minus B`` → metric → row."""
    chance: Mapping[str, float]
    best: str
    """The trained encoder with the highest F-measure, or the first row where there is none."""
    plots: Sequence[Plot]

    @property
    def rivals(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """All rows but what perfect activations reach."""
        return {name: cells for name, cells in self.models.items() if name != _ANNOTATION}


def beat_inputs(layout: DataLayout) -> dict[str, str]:
    """Fingerprint the scores that the sections are made from, by corpus."""
    return {
        corpus: read_json(layout.scores(_BEATS, corpus) / MANIFEST_NAME)["fingerprint"]
        for corpus in scored_corpora(layout, _BEATS)
    }


def beat_sections(layout: DataLayout, champion: str | None = None) -> list[BeatSection]:
    """Make a section for each corpus that was scored; its figures show the champion too."""
    return [
        _beat_section(layout, corpus, place, champion)
        for place, corpus in enumerate(beat_inputs(layout))
    ]


def _beat_section(layout: DataLayout, corpus: str, place: int, champion: str | None) -> BeatSection:
    from ml.beats.experiment import BARE, read_examples

    scores = read_scores(layout, evaluation=_BEATS, corpus=corpus)
    models = by_model(scores)
    trained = [name for name in models if name not in BARE] or list(models)[:1]
    best = max(trained, key=lambda name: models[name]["f_measure"]["value"])
    drawn = [name for name in (best, champion, *_DRAWN) if name in models]
    examples = read_examples(layout.scores(_BEATS, corpus))
    return BeatSection(
        title=corpus,
        n_tracks=scores[0]["n_queries"],
        columns=BEAT_COLUMNS,
        models=models,
        differences=by_model(read_scores(layout, evaluation=_BEATS_PAIRED, corpus=corpus)),
        chance={row["metric"]: row["chance"] for row in scores},
        best=best,
        plots=[
            _beat_plot(example, list(dict.fromkeys(drawn)), f"beats{place}-{number}")
            for number, example in enumerate(examples)
        ],
    )


def _beat_plot(example: BeatExample, models: Sequence[str], name: str) -> Plot:
    counts = ", ".join(f"{model} {len(example.beats[model])}" for model in models)
    return Plot(
        title=f"Beats of {example.track_id}",
        svg=figure_svg(beat_strip(example, models), name),
        alt=f"Log-mel and beat activations of {example.track_id} from {example.start_s:.0f} s; "
        f"{len(example.reference)} annotated beats; decoded: {counts}.",
        caption="Dashed: annotated beats. Triangles: decoded beats, hollow where none is "
        "annotated within 70 ms.",
    )


def beat_strip(example: BeatExample, models: Sequence[str]) -> Figure:
    """Draw one row a model below a strip of log-mel.

    Dashed lines are annotated beats; triangles stand where a model's decoder has a beat, filled
    where it is within 70 ms of an annotated one, hollow elsewhere.
    """
    from matplotlib.figure import Figure

    has_strip = example.mel is not None
    heights = [_STRIP] * has_strip + [_ROW] * len(models)
    figure = Figure(figsize=(WIDTH_IN, sum(heights) + 0.5), layout="constrained")
    rows = figure.subplots(len(heights), sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    if has_strip:
        _draw_strip(rows[0], example)
    for axes, model in zip(rows[has_strip:], models, strict=True):
        _draw_activation(axes, example, model)
    for axes in rows:
        axes.vlines(
            example.reference,
            0,
            1,
            transform=axes.get_xaxis_transform(),
            color=INK,
            linewidth=0.7,
            linestyle=(0, (4, 3)),
            alpha=0.7,
        )
        for side in axes.spines.values():
            side.set_visible(False)
        axes.tick_params(colors=INK, labelsize=FONT_POINTS, length=0)
    rows[-1].tick_params(length=3, width=0.6)
    rows[-1].set_xlabel("seconds", color=INK, fontsize=FONT_POINTS)
    return figure


def _draw_strip(axes: Axes, example: BeatExample) -> None:
    assert example.mel is not None
    mel = example.mel.T.astype(np.float32)  # (mel_bin, mel_frame)
    low, high = np.percentile(mel, [_QUIET, _LOUD])
    stop_s = example.start_s + len(next(iter(example.activations.values()))) / _FPS
    axes.imshow(
        mel,
        origin="lower",
        aspect="auto",
        cmap="Greys",
        vmin=low,
        vmax=high,
        extent=(example.start_s, stop_s, 0, 1),
        interpolation="nearest",
    )
    axes.set_yticks([])
    axes.set_ylabel("log-mel", color=INK, fontsize=FONT_POINTS - 1)


def _draw_activation(axes: Axes, example: BeatExample, model: str) -> None:
    values = example.activations[model].astype(np.float64)
    time = example.start_s + np.arange(len(values)) / _FPS
    colour = model_colour(model)
    axes.fill_between(time, values, color=colour, alpha=0.35, linewidth=0)
    axes.plot(time, values, color=colour, linewidth=1)
    beats = example.beats[model]
    is_right = _near(beats, example.reference)
    top = max(float(values.max(initial=0.0)), 1e-3) * 1.25
    for chosen, face in ((is_right, colour), (~is_right, "none")):
        axes.plot(
            beats[chosen],
            np.full(int(chosen.sum()), top),
            linestyle="",
            marker="v",
            markersize=4.5,
            markerfacecolor=face,
            markeredgecolor=colour,
        )
    axes.set_ylim(0, top * 1.2)
    axes.set_yticks([])
    axes.set_title(plain(model), loc="left", color=INK, fontsize=FONT_POINTS - 1, pad=1)


def _near(beats: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Tell which beats are within ±70 ms of an annotated one: (beat,) bool."""
    if not len(reference):
        return np.zeros(len(beats), dtype=bool)
    return np.abs(beats[:, None] - reference[None]).min(axis=1) <= 0.07
