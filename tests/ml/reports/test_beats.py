"""The figure of beats, and the section from scores to SVG."""

import numpy as np

from ml.artifacts import DataLayout, write_json
from ml.beats.experiment import BeatExample
from ml.figures import figure_svg
from ml.reports.sections import BEAT_COLUMNS, beat_inputs, beat_sections, beat_strip
from ml.scores.files import write_scores

ROWS = (("untrained", 90.0), ("film", 50.0), ("film-nce", 60.0), ("annotation", 100.0))


def example(*, has_mel: bool = True) -> BeatExample:
    random = np.random.default_rng(0)
    return BeatExample(
        track_id="heldout-001",
        start_s=8.0,
        mel=random.normal(size=(800, 80)).astype(np.float16) if has_mel else None,
        activations={"film": random.random(400), "untrained": np.zeros(400)},
        beats={"film": np.array([8.5, 9.2]), "untrained": np.empty(0)},
        reference=np.array([8.5, 9.0]),
    )


def test_a_row_a_model_below_the_strip():
    figure = beat_strip(example(), ["film", "untrained"])
    assert len(figure.axes) == 3
    assert [axes.get_title(loc="left") for axes in figure.axes[1:]] == ["film", "untrained"]
    bare = beat_strip(example(has_mel=False), ["film"])
    assert len(bare.axes) == 1
    assert "<svg" in figure_svg(bare, "beats")


def test_right_beats_are_filled_and_wrong_ones_hollow():
    figure = beat_strip(example(), ["film"])
    markers = [line for line in figure.axes[1].lines if line.get_marker() == "v"]
    right, wrong = ([float(x) for x in np.asarray(line.get_xdata())] for line in markers)
    assert (right, wrong) == ([8.5], [9.2])
    assert markers[1].get_markerfacecolor() == "none"


def test_sections_come_from_scores(tmp_path):
    layout = DataLayout(home=tmp_path)
    assert beat_sections(layout) == []
    folder = layout.scores("beats", "demo")
    rows = [
        {
            "evaluation": "beats",
            "corpus": "demo",
            "model": model,
            "conditioning": "all tracks",
            "n_queries": 4,
            "n_gallery": 0,
            "metric": metric,
            "value": value,
            "low": value - 1,
            "high": value + 1,
            "chance": 10.0,
        }
        for model, value in ROWS
        for metric in BEAT_COLUMNS
    ]
    write_scores(rows, folder)
    write_json(folder / "manifest.json", {"format_version": 1, "fingerprint": "f"})
    assert beat_inputs(layout) == {"demo": "f"}
    (section,) = beat_sections(layout, "film")
    assert section.n_tracks == 4
    assert list(section.models) == [name for name, _ in ROWS]
    assert section.chance["cmlt"] == 10.0
    assert section.best == "film-nce"
    assert list(section.rivals) == ["untrained", "film", "film-nce"]
