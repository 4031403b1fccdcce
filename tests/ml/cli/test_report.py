from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ml import kinds
from ml.artifacts import DataLayout, finish
from ml.cli.main import main
from ml.cli.report import print_scores
from ml.metrics import RETRIEVAL
from ml.scores.files import write_queries, write_scores
from ml.scores.intervals import INTERVALS_SAID
from ml.scores.text import glance_lines, swapped_notes, table_lines


def row(model: str, metric: str, value: float, **changes: Any) -> dict[str, Any]:
    return {
        "evaluation": "retrieval",
        "corpus": "demo",
        "model": model,
        "conditioning": "fine",
        "n_queries": 296,
        "n_gallery": 300,
        "metric": metric,
        "value": value,
        "low": value - 1,
        "high": value + 1,
        "chance": 0.3,
        **changes,
    }


ROWS = [row("film", "recall@1", 6.1), row("film", "recall@10", 35.0, low=None, high=None)]


def test_a_table_has_figures_intervals_and_chance() -> None:
    lines = table_lines("retrieval: demo, fine", [*ROWS, row("spectrum", "recall@1", 2.0)])
    assert lines[0] == "retrieval: demo, fine, 296 queries, 300 stems, percent"
    assert [line.split() for line in lines[1:]] == [
        ["R@1", "R@10"],
        ["film", "6.1", "35.0"],
        ["5.1…7.1"],
        ["spectrum", "2.0"],
        ["1.0…3.0"],
        ["chance", "0.3", "0.3"],
    ]


def test_published_figures_do_not_count_as_queries() -> None:
    published = row("film (published)", "recall@1", 38.8, evaluation="published", n_queries=600)
    lines = table_lines("retrieval", [*ROWS, published | {"low": None, "high": None}])
    assert "296 queries" in lines[0]
    assert ["film", "(published)", "38.8"] in [line.split() for line in lines]


def test_three_corpora_at_a_glance_fit_a_screen() -> None:
    models = ("untrained", "contrastive", "film", "film-nce", "spectrum", "clap-audio")
    metrics = {
        "retrieval": ("within_label_rank", "recall@10", "normalized_rank_mean", "right_song"),
        "retrieval-paired": ("recall@10",),
        "beats": ("f_measure", "cmlt", "amlt", "average_precision"),
    }
    rows = [
        row(model, metric, 30.0 + i, evaluation=evaluation, corpus=corpus)
        for i, model in enumerate(models)
        for evaluation in metrics
        for corpus in ("demo", "demo-plain", "demo-swapped")[: 1 if evaluation == "beats" else 3]
        for metric in metrics[evaluation]
    ]
    lines = glance_lines(rows)
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines[:4]] == [
        ["retrieval,", "percent", "with", "95", "%", "intervals"],
        ["corpus", "model", "in", "label", "R@10", "NR", "mean"],
        ["demo", "untrained", *["30.0", "29.0…31.0"] * 3],
        ["contrastive", *["31.0", "30.0…32.0"] * 3],
    ]
    assert lines[8].split() == ["chance", "0.3", "0.3", "0.3"]
    coarse = glance_lines([row("film", "recall@10", 1.0, conditioning="coarse", low=None)])
    assert coarse[2].split() == ["demo,", "coarse", "film", "1.0"]
    assert glance_lines([row("film", "recall@10", 1.0, evaluation="alignment")]) == []


def test_queries_that_a_place_within_labels_leaves_out_are_counted() -> None:
    rows = [
        row(model, metric, 50.0, n_queries=n_queries)
        for model in ("film", "label")
        for metric, n_queries in (("within_label_rank", 290), ("recall@1", 296))
    ]
    lines = table_lines("retrieval", rows)
    assert lines[1].split() == ["in", "label", "in", "category", "R@1"]
    assert lines[2].split() == ["film", "50.0", "–", "50.0"]
    assert lines[-2:] == [
        "in label: 6 queries left out, for stems whose label is missing or that of no other stem",
        "in category –: no query's category is that of another stem",
    ]


def test_without_a_mix_of_another_track_the_full_table_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [row(model, "recall@10", 50.0) for model in ("film", "label")]
    print_scores(rows)
    assert "mix swapped –: no text is asked for in two tracks\n" in capsys.readouterr().out
    alone = [{**r, "low": None, "high": None} for r in rows]
    assert swapped_notes(alone) == ["mix swapped –: there is one track only"]
    swapped = [{**r, "evaluation": "retrieval-swapped", "n_queries": 295} for r in rows]
    print_scores([*rows, *swapped])
    out = capsys.readouterr().out
    said = "mix swapped: 1 query left out, whose text is asked for in one track only"
    assert out.count(said) == 1
    assert "retrieval-swapped: demo, fine, 295 queries, 300 stems, percent" in out
    assert swapped_notes([{**r, "evaluation": "retrieval-seen"} for r in rows]) == []


def test_many_metrics_become_rows() -> None:
    of_retrieval = table_lines("retrieval", [row("film", name, 100.0) for name in RETRIEVAL])
    assert of_retrieval[2].split() == ["film", *["100.0"] * len(RETRIEVAL)]  # all beside each other
    assert max(map(len, of_retrieval)) <= 120
    rows = [row(model, f"metric-{i}", float(i)) for model in ("film", "clap") for i in range(10)]
    lines = table_lines("instruments", rows)
    assert lines[1].split() == ["film", "clap", "chance"]
    assert lines[4].split() == ["metric-1", "1.0", "1.0", "0.3"]
    assert lines[5].split() == ["0.0…2.0", "0.0…2.0"]


def test_the_verb_prints_what_is_on_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--home", str(tmp_path), "scores"]) == 0
    assert "stems evaluate retrieval" in capsys.readouterr().out
    folder = DataLayout(home=tmp_path).scores("retrieval", "demo")
    folder.mkdir(parents=True)
    nan = float("nan")
    write_scores([{**r, "low": r["low"] or nan, "high": r["high"] or nan} for r in ROWS], folder)
    write_queries([], folder)
    finish(folder, {}, kinds.SCORES, summary={})
    assert main(["--home", str(tmp_path), "scores", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ROWS
    assert main(["--home", str(tmp_path), "scores", "--corpus", "demo-plain"]) == 0
    assert "no scores of demo-plain yet" in capsys.readouterr().out
    for words in (["--corpus", "demmo"], ["--corpus", "demmo", "--json"]):
        assert main(["--home", str(tmp_path), "scores", *words]) == 2
        said = capsys.readouterr()
        assert "'demmo' is not in" in said.err
        assert "did you mean 'demo'?" in said.err
        assert said.out == ""
    assert main(["--home", str(tmp_path), "scores"]) == 0
    glance = capsys.readouterr().out
    assert main(["--home", str(tmp_path), "scores", "--corpus", "demo", "--all"]) == 0
    full = capsys.readouterr().out
    assert glance.endswith("\nall figures: stems scores --all\n")
    assert "R@10" in glance
    assert "R@1 " not in glance
    table = "\n".join(table_lines("retrieval: demo, fine", ROWS))
    assert full == f"{table}\n\n{INTERVALS_SAID}\n"
