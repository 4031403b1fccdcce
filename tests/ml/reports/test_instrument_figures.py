from __future__ import annotations

import re
from typing import Any

import numpy as np

from ml.figures import figure_svg, model_colour
from ml.reports.instruments import SHARE_NAMES, confusion_matrix, presence_points, share_bars
from ml.reports.sections import offset_curves
from ml.retrieval.evaluation.instruments import SHARES

PARTS = {
    "flute": ("same-text", (50, 0, 0, 0, 50, 0, 0)),
    "sax": ("other-words", (20, 10, 10, 10, 10, 10, 30)),
    "kazoo": ("zero-shot", (0, 0, 0, 0, 0, 0, 100)),
}


def rows() -> list[dict[str, Any]]:
    return [
        {
            "instrument": name,
            "queries": 10,
            "presence": presence,
            **dict(zip(SHARES, shares, strict=True)),
        }
        for name, (presence, shares) in PARTS.items()
    ]


def test_stacked_bars_are_the_shares_and_end_at_100():
    axes = share_bars(rows()).axes[0]
    drawn = np.array([[bar.get_width() for bar in group] for group in axes.containers])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(drawn.T, [shares for _, shares in PARTS.values()])
    ends = [bar.get_x() + bar.get_width() for bar in axes.containers[-1]]  # type: ignore[attr-defined]
    np.testing.assert_allclose(ends, 100)
    assert [group.get_label() for group in axes.containers] == list(SHARE_NAMES)


def test_labels_tell_presence_by_a_mark_and_no_colour_stands_for_two_things():
    figure = share_bars(rows())
    ticks = figure.axes[0].get_yticklabels()
    assert [tick.get_text() for tick in ticks] == ["flute (10)", "≈ sax (10)", "new: kazoo (10)"]
    # colours are of models; shares are shades and hatches of the page's ink
    assert set(re.findall("#[0-9a-f]{6}", figure_svg(figure, "shares"))) == set()


def test_presence_points_have_the_values_and_intervals():
    scores = [
        {
            "model": model,
            "metric": f"recall@10/{group}",
            "n_queries": n,
            "value": 10.0 * n,
            "low": None if n == 1 else 5.0 * n,
            "high": None if n == 1 else 15.0 * n,
        }
        for model in ("film", "spectrum")
        for group, n in (("zero-shot", 2), ("same-text", 5), ("no-label", 1))
    ]
    axes = presence_points(scores, label="Recall@10 in %", chance=3.0).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        "same text (5)",
        "zero-shot (2)",
        "no label (1)",
    ]
    points = [line for line in axes.get_lines() if line.get_linestyle() == "None"]
    assert [list(np.array(line.get_xdata())) for line in points] == [[50, 20, 10]] * 2
    assert [line.get_color() for line in points] == [model_colour("film"), model_colour("spectrum")]
    spans = [list(np.array(line.get_xdata())) for line in axes.get_lines()]
    assert spans.count([25, 75]) == spans.count([10, 30]) == 2


def test_the_confusion_matrix_names_what_was_found():
    found = [("bass", "bass", 3, 75.0), ("bass", "drums", 1, 25.0), ("drums", "bass", 2, 100.0)]
    keys = ("category", "nearest_category", "queries", "share")
    axes = confusion_matrix([dict(zip(keys, row, strict=True)) for row in found]).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["bass (4)", "drums (2)"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["bass", "drums"]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0.5, 0.5): "75",
        (1.5, 0.5): "25",
        (0.5, 1.5): "100",
    }


def test_alignment_curves_are_sorted_by_time_with_the_best_rank_on_top():
    values = {4.0: 48.0, 0.0: 20.0, -4.0: 52.0}
    offsets = [
        {"model": "film", "offset_s": x, "value": y, "low": y - 1, "high": y + 1}
        for x, y in values.items()
    ]
    axes = offset_curves(offsets).axes[0]
    curve, chance = axes.get_lines()
    assert list(np.array(curve.get_xdata())) == [-4, 0, 4]
    assert list(np.array(curve.get_ydata())) == [52, 20, 48]
    assert set(np.array(chance.get_ydata())) == {50}
    bottom, top = axes.get_ylim()
    assert top < bottom
