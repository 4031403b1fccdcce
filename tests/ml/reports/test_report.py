from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml import kinds
from ml.artifacts import ArtifactError, DataLayout, finish, read_json, write_json
from ml.cli import report
from ml.reports.report import build_report, figure_text
from ml.reports.scored import score_tables, verdict
from ml.reports.trained import trained_models
from ml.retrieval.evaluation.instruments import read_instruments
from ml.scores.files import read_scores, write_scores
from ml.settings import load_settings
from ml.training.models import champion_path

VOID = {"meta", "link", "br", "img", "hr", "input", "path", "use"}


class Page(HTMLParser):
    """Tags that stay open, addresses that are followed, and text."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        kinds = {"src", "href", "xlink:href"} if tag != "a" else {"src"}
        self.addresses += [value or "" for name, value in attrs if name in kinds]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def run_verb(home: Path, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    report.add_parser(parser.add_subparsers())
    args = parser.parse_args(arguments)
    return args.run(args, load_settings(home))


def page_of(layout: DataLayout) -> str:
    return (layout.reports / "index.html").read_text()


def missing(layout: DataLayout) -> list[str]:
    return read_json(layout.reports / "manifest.json")["missing"]


def test_the_page_stands_alone_and_is_well_formed(filled: DataLayout):
    artifact = build_report(filled, n_samples=2)
    assert artifact.summary["missing"] == 0
    text = page_of(filled)
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert page.tags.count("svg") == page.tags.count("figure") == 9
    assert page.tags.count("audio") == 2 * 5
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"@import|url\((?!#)", text)
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_the_tables_say_what_the_scores_say(filled: DataLayout):
    build_report(filled, n_samples=0)
    page = Page(page_of(filled))
    [table] = score_tables(filled)
    look_ups = ["label", "label+contrastive"]
    models = ["film-nce", "film", "contrastive", "untrained", "spectrum"]
    assert list(table.models) == [*models, *look_ups]
    assert table.best == "film-nce"
    # only what was scored as a model can be the best one
    assert replace(table, model_ids={"untrained": "id-untrained"}).best == "untrained"
    for name, scores in {**table.models, **table.paired}.items():
        of_an_order = {"normalized_rank_median"} if name.split(" minus ")[-1] == "label" else set()
        assert set(scores) == set(table.columns) - of_an_order
    [note, _] = table.notes
    assert f"{note}." in page.texts
    for metric, row in table.models["film"].items():
        assert figure_text(row["value"]) in page.texts
        if metric.startswith("recall"):
            assert f"{figure_text(row['value'] / table.chance[metric])}×" in page.texts
        assert f"{figure_text(row['low'])} to {figure_text(row['high'])}" in page.texts
    assert "film-nce minus spectrum" in page.texts
    assert list(table.swapped) == list(table.models)
    for row in table.swapped["film"].values():
        assert figure_text(row["value"]) in page.texts
    lost = {name: rows["recall@10"]["value"] for name, rows in table.loss.items()}
    assert f"loses {lost['film-nce']:+.1f}" in page.texts
    assert lost["label"] == 0 < lost["film-nce"]
    assert f"{table.chance['recall@10']:.1f}" in page.texts


def test_the_verdict_says_who_answers_and_what_of_it_is_sure(filled: DataLayout):
    tables = score_tables(filled)
    assert verdict(tables, None) == "No model answers queries yet: stems promote lets one."
    assert "was not scored on" in verdict(tables, "another")
    said = verdict(tables, tables[0].model_ids["film"])
    assert said.startswith("film answers queries: it ")
    row, chance = tables[0].models["film"]["recall@10"], tables[0].chance["recall@10"]
    assert f"{row['value'] / chance:.1f} times chance" in said
    assert ("cannot be told from chance" in said) == any(
        t.models["film"]["recall@10"]["low"] <= t.chance["recall@10"] for t in tables
    )
    (filled.corpora / tables[0].corpus).mkdir(parents=True)
    assert score_tables(filled)[-1].corpus == tables[0].corpus  # what was made here comes last


def test_models_are_described(filled: DataLayout):
    models = {model.name: model for model in trained_models(filled)}
    assert list(models) == ["untrained", "contrastive", "film", "film-nce"]
    film = models["film"]
    assert (film.steps, film.batch_size, film.seed) == (20, 64, 3)
    assert film.parameters == {"encoder": 500_000, "predictor": 500_000}
    assert [(seen.corpus, seen.tracks, seen.hours) for seen in film.trained_on] == [
        ("train", 9, None)
    ]
    assert film.training_s == pytest.approx(40)
    assert set(film.curves) >= {"jepa/loss", "jepa/patch_loss", "jepa/nce_loss"}
    assert [curve.is_valid for curve in film.curves["jepa/loss"]] == [False, True]
    assert (models["untrained"].steps, models["untrained"].curves) == (0, {})
    build_report(filled, tracking_url="https://me:secret@tracking.example:8080/", n_samples=0)
    text = page_of(filled)
    assert 'href="https://tracking.example:8080/#/runs/0123456789-film"' in text
    assert "secret" not in text
    assert "secret" not in (filled.reports / "manifest.json").read_text()


def test_it_is_reused_until_an_input_changes(filled: DataLayout):
    first = build_report(filled, n_samples=0)
    again = build_report(filled, n_samples=0)
    assert (first.reused, again.reused) == (False, True)
    assert again.fingerprint == first.fingerprint
    assert not build_report(filled, title="Another", n_samples=0).reused
    record = filled.runs / "film-tiny-000" / "metrics.jsonl"
    line = {"step": 21, "time": 1.0, "metrics": {"jepa/loss": 1.0}}
    record.write_text(record.read_text() + json.dumps(line) + "\n")
    assert not build_report(filled, title="Another", n_samples=0).reused
    (filled.reports / "index.html").unlink()
    assert not build_report(filled, title="Another", n_samples=0).reused


def test_what_is_missing_is_said(
    filled: DataLayout,
    set_models: Callable[[DataLayout, tuple[str, ...]], None],
    add_model: Callable[..., None],
):
    add_model(filled, "pretrained")
    set_models(filled, ("contrastive", "film", "pretrained"))
    manifest = filled.runs / "film-tiny-000" / "model" / "manifest.json"
    write_json(manifest, read_json(manifest) | {"model_id": "newer"})
    (filled.runs / "film-tiny-000" / "metrics.jsonl").unlink()
    (filled.embeddings("id-film-nce", "tones") / "manifest.json").unlink()
    (filled.scores("retrieval", "tones") / "queries.parquet").unlink()
    shutil.rmtree(filled.scores("instruments", "tones"))
    build_report(filled)
    said = "\n".join(missing(filled))
    assert "pretrained has no scores on tones" in said
    assert "film on tones are of an earlier version (id-film, now newer)" in said
    assert "film has no loss curves" in said
    assert "no sample queries of tones" in said
    assert "no instrument analysis of tones" in said
    assert "stems evaluate instruments --corpus tones" in said
    assert all(sentence in Page(page_of(filled)).texts for sentence in missing(filled))


def test_an_empty_home_gives_a_page_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run_verb(tmp_path, "report") == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "reports" / "index.html") in shown
    assert "stems train" in shown
    page = Page((tmp_path / "reports" / "index.html").read_text())
    assert page.open == []
    assert not {"table", "audio", "svg"} & set(page.tags)


def test_texts_of_users_are_not_markup(filled: DataLayout):
    build_report(filled, title="<script>alert(1)</script>", n_samples=0)
    assert "script" not in Page(page_of(filled)).tags


def test_the_verb_builds_and_then_reuses(filled: DataLayout, capsys: pytest.CaptureFixture[str]):
    assert run_verb(filled.home, "report", "--samples", "0", "--title", "Ours") == 0
    assert "is written" in capsys.readouterr().out
    assert run_verb(filled.home, "report", "--samples", "0", "--title", "Ours") == 0
    assert "is up to date" in capsys.readouterr().out
    with pytest.raises(ValueError, match="expected 0 or more"):
        run_verb(filled.home, "report", "--samples", "-1")


def test_a_wrong_corpus_and_damaged_inputs_are_named(filled: DataLayout):
    with pytest.raises(ValueError, match="'nowhere' has no scores; expected one of: tones"):
        build_report(filled, samples_of="nowhere")
    weights = filled.runs / "film-tiny-000" / "model" / "model.safetensors"
    weights.write_bytes(b"torn")
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        build_report(filled)
    assert not (filled.reports / "index.html").exists()


def test_scores_without_intervals_are_shown(filled: DataLayout):
    path = filled.scores("retrieval", "tones") / "scores.parquet"
    table = pq.read_table(path)
    rows = [row | {"low": float("nan"), "high": float("nan")} for row in table.to_pylist()]
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    build_report(filled, n_samples=0)
    assert "nan" not in " ".join(Page(page_of(filled)).texts).lower().split()


def test_presence_groups_and_shares_are_those_of_the_analysis(filled: DataLayout):
    build_report(filled, n_samples=0)
    page = Page(page_of(filled))
    rows = {
        row["metric"]: row
        for row in read_scores(filled, evaluation="instruments")
        if row["model"] == "film-nce"
    }
    zero_shot = rows["normalized_rank_mean/zero-shot"]
    assert zero_shot["n_queries"] == 6
    assert {"3.3", "51.7"} <= set(page.texts)  # by chance
    assert f"{zero_shot['value']:.1f}" in page.texts
    assert "NR mean, zero-shot (6)" in page.texts
    assert "new: flute (6)" in page.texts
    assert "≈ synth bass (6)" in page.texts
    assert "grand piano (6)" in page.texts
    [row] = [
        row
        for row in read_instruments(filled, "tones")
        if (row["model"], row["instrument"]) == ("film-nce", "flute")
    ]
    assert f"nearest: {row['nearest_training_label']} {row['similarity']:.2f}" in page.texts


def test_alignment_has_a_section_where_it_was_evaluated(filled: DataLayout):
    build_report(filled, n_samples=0)
    assert 'id="alignment"' not in page_of(filled)
    folder = filled.scores("alignment", "tones")
    named = {"evaluation": "alignment", "corpus": "tones", "conditioning": "fine"}
    counts = {"n_queries": 77, "n_gallery": 7, "low": 30.0, "high": 60.0}
    rows = [
        {**named, **counts, "model": "film", "metric": metric, "value": 43.21, "chance": chance}
        for metric, chance in (("aligned_first", 17.7), ("aligned_rank", 50.0))
    ]
    write_scores(rows, folder)
    offsets = [
        {
            "model": "film",
            "conditioning": "fine",
            "offset_s": 4.0 * i,
            "value": 50.0 - i,
            "low": 40.0,
        }
        | {"high": 60.0, "chunks": 9}
        for i in range(-2, 3)
    ]
    pq.write_table(pa.Table.from_pylist(offsets), folder / "offsets.parquet")
    finish(folder, {}, kinds.REPORT, summary={})
    assert not build_report(filled, n_samples=0).reused
    page = Page(page_of(filled))
    assert "77 query chunks of 7 stems, percent; small figures are 95 % intervals" in page.texts
    assert {"43.2", "17.7", "50.0"} <= set(page.texts)
    assert page.tags.count("svg") == 10


def test_there_are_ten_samples_with_a_link_to_the_run(filled: DataLayout):
    build_report(filled)
    text = page_of(filled)
    assert Page(text).tags.count("article") == 10
    assert 'href="http://127.0.0.1:5000/#/runs/0123456789-film-nce">its MLflow run' in text


def test_the_model_that_answers_queries_is_marked(filled: DataLayout):
    path = champion_path(filled)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"model_id": "id-film", "checkpoint": "runs/film-tiny-000/model"})
    build_report(filled, n_samples=0)
    marked = re.findall(r"([\w-]+) <span class=\"badge\">answers queries", page_of(filled))
    assert set(marked) == {"film"}
