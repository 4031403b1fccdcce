"""The figure of beats: log-mel, activations, decoded beats and annotation of some seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ml.reports.canvas import FONT_POINTS, INK, WIDTH_IN, model_colour, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ml.beats.examples import BeatExample

_STRIP, _ROW = 1.1, 0.55
"""Heights in inches."""
_QUIET, _LOUD = 5, 99.5
"""Percentiles of the log-mel that are white and black."""


def beat_strip(example: BeatExample, models: Sequence[str], *, fps: float) -> Figure:
    """One row a model below a strip of log-mel.

    Dashed lines are annotated beats; triangles stand where a model's decoder has a beat, filled
    where it is within 70 ms of an annotated one, hollow elsewhere.

    Args:
        example: what to draw.
        models: rows, from above.
        fps: frames per second of the activations.
    """
    from matplotlib.figure import Figure

    has_strip = example.mel is not None
    heights = [_STRIP] * has_strip + [_ROW] * len(models)
    figure = Figure(figsize=(WIDTH_IN, sum(heights) + 0.5), layout="constrained")
    rows = figure.subplots(len(heights), sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    if has_strip:
        _draw_strip(rows[0], example)
    for axes, model in zip(rows[has_strip:], models, strict=True):
        _draw_activation(axes, example, model, fps)
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
    stop_s = example.start_s + mel.shape[1] / 100
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


def _draw_activation(axes: Axes, example: BeatExample, model: str, fps: float) -> None:
    values = example.activations[model].astype(np.float64)
    time = example.start_s + np.arange(len(values)) / fps
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
    """Which beats are within ±70 ms of an annotated one: (beat,) bool."""
    if not len(reference):
        return np.zeros(len(beats), dtype=bool)
    return np.abs(beats[:, None] - reference[None]).min(axis=1) <= 0.07
