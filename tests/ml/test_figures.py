from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import ml.reports
from ml.figures import (
    INK,
    Bar,
    Curve,
    figure_svg,
    loss_curves,
    model_colour,
    score_bars,
    thinned,
)
from ml.training.config import PRESETS


def test_models_can_be_told_apart_and_from_what_is_no_model():
    models = {model_colour(name) for name in (*PRESETS, "untrained", "spectrum", "starter")}
    rows = {model_colour(name) for name in ("label", "label+contrastive")}
    assert len(models) == 10
    assert len(models | rows) == 12
    assert model_colour("two-part+label") == model_colour("two-part")
    others = {model_colour(name) for name in ("annotation", "log-mel", "onset curve", "new")}
    assert not others & (models | rows)
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in models | rows | others)


def test_thinning_keeps_short_curves_the_ends_and_the_mean_level():
    steps = np.arange(10.0)
    assert thinned(steps, steps)[0] is steps
    steps = np.arange(10_001.0)
    values = np.where(steps % 2, 3.0, 1.0)
    few, means = thinned(steps, values)
    assert len(few) == len(means) == 300
    assert (few[0], few[-1]) == (0, 10_000)
    assert (np.diff(few) > 0).all()
    np.testing.assert_allclose(means[1:-1], 2.0, atol=0.05)


def test_a_curve_figure_shows_train_valid_and_chance():
    steps = np.array([1.0, 2.0])
    curves = [
        Curve(model="film", steps=steps, values=steps),
        Curve(model="film", steps=steps, values=steps, is_valid=True),
    ]
    axes = loss_curves(curves, label="jepa/loss", chance=[2.0, 2.0]).axes[0]
    train, valid, chance = axes.get_lines()
    assert train.get_color() == valid.get_color() == model_colour("film")
    assert (train.get_linestyle(), valid.get_linestyle()) == ("-", "--")
    assert set(np.array(chance.get_ydata())) == {2.0}


def test_bars_have_the_values_and_intervals_of_the_table():
    bars = [
        Bar(name="film", value=30.0, low=20.0, high=45.0),
        Bar(name="one track", value=10.0),
    ]
    axes = score_bars(bars, label="Recall@10 in %", chance=5.0, limit=50).axes[0]
    assert [patch.get_width() for patch in axes.patches] == [30, 10]  # type: ignore[attr-defined]
    interval, chance = axes.get_lines()
    assert list(np.array(interval.get_xdata())) == [20, 45]
    assert set(np.array(chance.get_xdata())) == {5}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["film", "one track"]


def test_svg_fits_into_a_page():
    labels = ["$5 <organ>", "flute"]
    bars = [Bar(name=label, value=50.0) for label in labels]
    figures = [
        score_bars(bars, label="Recall@10 in %", chance=1.0, limit=100),
        score_bars(bars[1:], label="Recall@10 in %", chance=1.0, limit=100),
    ]
    first, second = (figure_svg(figure, name) for figure, name in zip(figures, "ab", strict=True))
    assert first == figure_svg(figures[0], "a")
    assert first.startswith("<svg viewBox=")
    assert "$5 &lt;organ&gt;" in first
    assert INK not in first + second
    assert "currentColor" in first
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert not ids[0] & ids[1]
    for svg, own in zip((first, second), ids, strict=True):
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)) <= {
            pair for one in own for pair in ((one, ""), ("", one))
        }


def test_nothing_here_uses_pyplot():
    folder = Path(ml.reports.__file__).parent
    modules = [path.read_text() for path in folder.glob("*.py")]
    assert any("matplotlib" in text for text in modules)
    assert not any(re.search(r"import.*pyplot|matplotlib\.use", text) for text in modules)
