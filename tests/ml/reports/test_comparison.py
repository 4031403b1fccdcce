from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ml.artifacts import DataLayout
from ml.cli.main import main
from ml.reports.comparison import better, comparison_page, comparison_values
from ml.reports.report import figure_text
from ml.retrieval.evaluation.compare import ComparisonConfig, MetricDifference, compare_models
from ml.scores.intervals import Interval
from ml.training.models import find_model

CONFIG = ComparisonConfig(resamples=100, permutations=200)


def compared(layout: DataLayout, a: str, b: str):
    return compare_models(
        layout, find_model(layout, a, ""), find_model(layout, b, ""), config=CONFIG
    )


def test_the_page_stands_alone_and_shows_what_was_compared(filled: DataLayout):
    text = comparison_page(filled, compared(filled, "film-nce", "film"), "http://mlflow.example/")
    assert "<script" not in text
    assert not re.search(r"@import|url\((?!#)", text)
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert text.count("<svg") == 3  # losses of phase 2
    assert 'href="http://mlflow.example/#/runs/0123456789-film-nce"' in text
    for row in compared(filled, "film-nce", "film").corpora[0].metrics:
        assert f'<span class="value">{figure_text(row.a)}</span>' in text
    assert "grand piano" in text
    assert "preset" in text


def test_what_has_no_checkpoint_is_compared_by_its_scores(filled: DataLayout):
    embedded = compared(filled, "film", "id-spectrum")
    page = comparison_page(filled, embedded, "http://mlflow.example")
    assert "id-spectrum" in page
    values = comparison_values(filled, embedded)
    assert {curve["model"] for curve in values["curves"]} == {"film"}


def test_better_heeds_which_way_a_metric_points():
    def row(metric: str, low: float, high: float, p: float | None = None) -> MetricDifference:
        interval = Interval(value=(low + high) / 2, low=low, high=high)
        return MetricDifference(metric=metric, n_queries=5, a=1, b=1, difference=interval, p=p)

    assert better(row("recall@1", 1, 3)) == "A"
    assert better(row("recall@1", -3, -1)) == "B"
    assert better(row("normalized_rank_mean", -3, -1)) == "A"
    assert better(row("normalized_rank_mean", 1, 3)) == "B"
    assert better(row("recall@1", -1, 3)) is None
    assert better(row("recall@1", 1, 3, p=0.04)) == "A"
    assert better(row("recall@1", 1, 3, p=0.25)) is None
    assert better(row("recall@1", float("nan"), float("nan"))) is None


def test_the_verb_prints_text_json_and_writes_a_page(
    filled: DataLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    home = ["--home", str(filled.home), "compare"]
    fast = ["--permutations", "100", "--resamples", "100"]
    out = tmp_path / "page.html"
    assert main([*home, "film-nce", "film", *fast, "--html", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "A: film-nce (id-film-nce, MLflow run 0123456789-film-nce)" in shown
    assert "tones: 30 queries, 30 stems, percent" in shown
    assert re.search(
        r"recall@10 +\d+\.\d +\d+\.\d +[+-]\d+\.\d +[+-]\d+\.\d…[+-]\d+\.\d +[01]", shown
    )
    assert "preset  film-nce | film" in shown
    assert "jepa/loss, train" in shown
    assert out.read_text().startswith("<!doctype html>")
    assert main([*home, "film-nce", "film", *fast, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["config"] == {"preset": {"a": "film-nce", "b": "film"}}
    assert {row["metric"] for row in values["corpora"][0]["metrics"]} >= {"recall@1"}
    assert main([*home, "film-nce", "nobody"]) == 2
    assert "'nobody' is no model here" in capsys.readouterr().err
    assert main([*home, "film-nce", "film", "--corpus", "moon"]) == 2
    assert "stems embed moon" in capsys.readouterr().err
