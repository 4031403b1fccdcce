"""The report's sections on beats, one a corpus that was scored for them.

The figure shows some seconds of a song: log-mel, activations, decoded beats and annotation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import MANIFEST_NAME, DataLayout, read_json
from ml.figures import FONT_POINTS, INK, WIDTH_IN, figure_svg, model_colour, plain
from ml.metrics import BEATS
from ml.reports.scored import by_model
from ml.reports.sections import Plot
from ml.scores.files import read_scores, scored_corpora

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ml.beats.experiment import BeatExample

EVALUATION, PAIRED, ANNOTATION = "beats", "beats-paired", "annotation"
COLUMNS = {name: metric.title for name, metric in BEATS.items() if metric.title}
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
        return {name: cells for name, cells in self.models.items() if name != ANNOTATION}


def beat_inputs(layout: DataLayout) -> dict[str, str]:
    """Fingerprint the scores that the sections are made from, by corpus."""
    return {
        corpus: read_json(layout.scores(EVALUATION, corpus) / MANIFEST_NAME)["fingerprint"]
        for corpus in scored_corpora(layout, EVALUATION)
    }


def beat_sections(layout: DataLayout, champion: str | None = None) -> list[BeatSection]:
    """Make a section for each corpus that was scored; its figures show the champion too."""
    return [
        _section(layout, corpus, place, champion)
        for place, corpus in enumerate(beat_inputs(layout))
    ]


def _section(layout: DataLayout, corpus: str, place: int, champion: str | None) -> BeatSection:
    from ml.beats.experiment import BARE, read_examples

    scores = read_scores(layout, evaluation=EVALUATION, corpus=corpus)
    models = by_model(scores)
    trained = [name for name in models if name not in BARE] or list(models)[:1]
    best = max(trained, key=lambda name: models[name]["f_measure"]["value"])
    drawn = [name for name in (best, champion, *_DRAWN) if name in models]
    examples = read_examples(layout.scores(EVALUATION, corpus))
    return BeatSection(
        title=corpus,
        n_tracks=scores[0]["n_queries"],
        columns=COLUMNS,
        models=models,
        differences=by_model(read_scores(layout, evaluation=PAIRED, corpus=corpus)),
        chance={row["metric"]: row["chance"] for row in scores},
        best=best,
        plots=[
            _plot(example, list(dict.fromkeys(drawn)), f"beats{place}-{number}")
            for number, example in enumerate(examples)
        ],
    )


def _plot(example: BeatExample, models: Sequence[str], name: str) -> Plot:
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
