import base64
from pathlib import Path

from assets_def.results import (
    champion_markdown,
    evaluation_metadata,
    score_markdown,
    score_metadata,
)
from ml import kinds
from ml.artifacts import DataLayout, finish
from ml.scores.files import write_scores


def row(model: str, metric: str, value: float | None, low: float | None = None):
    high = None if low is None else 40.0
    shown = {"value": value, "low": low, "high": high, "chance": 3.4}
    return {"model": model, "metric": metric, **shown}


ROWS = [
    row("film", "recall@1", 12.34),
    row("film", "recall@10", 35.0, 30.0),
    row("spectrum", "recall@10", 20.0, 10.0),
]


def test_table_has_a_line_for_each_model_and_for_chance():
    assert score_markdown(ROWS).splitlines() == [
        "| model | recall@1 | recall@10 |",
        "|---|---|---|",
        "| film | 12.3 | 35.0 (30.0–40.0) |",
        "| spectrum | – | 20.0 (10.0–40.0) |",
        "| *chance* | 3.4 | 3.4 |",
    ]


def test_plot_is_a_picture_in_the_page():
    shown = score_metadata(ROWS)
    assert shown["film/recall@10"] == 35.0
    encoded = shown["plot"].value.partition("base64,")[2].rstrip(")")
    assert base64.b64decode(encoded).startswith(b"\x89PNG")


def test_evaluations_stand_apart_and_published_figures_below_their_protocol():
    header = {"corpus": "mine", "conditioning": "fine"}
    rows = [
        header | row("film", "recall@10", 35.0, 30.0) | {"evaluation": "retrieval"},
        header | row("a minus b", "recall@10", 5.0, 3.0) | {"evaluation": "retrieval-paired"},
        header
        | row("film", "recall@10", 25.0, 20.0)
        | {"evaluation": "retrieval-paper", "n_queries": 600, "n_gallery": 600},
        header | row("film", "recall@10", 9.0, -1.0) | {"evaluation": "retrieval-swapped-loss"},
    ]
    shown = evaluation_metadata(rows, "musdb18")
    assert shown["film/recall@10"] == 35.0
    assert shown["retrieval-paper/film/recall@10"] == 25.0
    assert "published" not in shown["scores"].value
    lines = shown["retrieval-paper/scores"].value.splitlines()
    assert "| film (published) | 95.0 |" in lines
    assert lines[-1] == "| *chance* | 3.4 |"
    assert not any("minus" in name for name in shown)
    assert [name for name in shown if "swapped" in name] == ["retrieval-swapped-loss/scores"]
    assert "| film | 9.0 (-1.0–40.0) |" in shown["retrieval-swapped-loss/scores"].value
    ours = evaluation_metadata(rows, "demo")["retrieval-paper/scores"].value
    assert "published" not in ours
    coarse = [x | {"conditioning": "coarse"} for x in rows[:1]]
    assert evaluation_metadata([*rows, *coarse], "demo")["coarse/film/recall@10"] == 35.0


def test_the_champion_is_shown_where_its_version_was_scored(tmp_path: Path):
    layout = DataLayout(home=tmp_path)
    for corpus, model_id in (("ours", "a"), ("theirs", "earlier")):
        row = {"evaluation": "retrieval", "corpus": corpus, "model": "film", "value": 40.0}
        row |= {"conditioning": "fine", "metric": "recall@10", "n_queries": 9, "n_gallery": 9}
        folder = layout.scores("retrieval", corpus)
        folder.mkdir(parents=True)
        write_scores([{**row, "low": 30.0, "high": 50.0, "chance": 10.0}], folder)
        finish(folder, {"models": [["film", model_id]]}, kinds.SCORES, summary={})
    _, _, *lines = champion_markdown(layout, "a").splitlines()
    assert lines == ["| ours | recall@10 | 40.0 (30.0–50.0) | 10.0 |"]
