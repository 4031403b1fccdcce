"""``stems table`` on two models' tables, published with few vectors."""

import argparse
import csv
import json
import re
from functools import partial
from pathlib import Path

import lancedb
import numpy as np
import polars as pl
import pytest

from ml import kinds
from ml.artifacts import ArtifactError, DataLayout, finish, write_json
from ml.cli import table
from ml.retrieval.champion.champion import write_champion
from ml.retrieval.embeddings.files import StemRow, stem_table
from ml.retrieval.tables import index as table_index
from ml.retrieval.tables import publish as store
from ml.settings import load_settings

ONE, OTHER, FORMER = "1" * 16, "2" * 16, "3" * 16


def run(home: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    table.add_parser(parser.add_subparsers())
    args = parser.parse_args(["table", *words])
    return args.run(args, load_settings(home))


@pytest.fixture
def layout(tmp_path: Path) -> DataLayout:
    """Two models, the first of them champion after a third one that is gone, each with tables."""
    layout = DataLayout(home=tmp_path)
    index = {}
    for name, model_id in (("film-nce", ONE), ("film", OTHER)):
        folder = layout.runs / name / "model"
        finish(folder, {}, kinds.MODEL, summary={}, name=name, model_id=model_id)
        write_json(folder / "config.json", {})
        index[name] = f"runs/{name}/model"
        rows = [
            StemRow(
                stem_id=f"song/{i}",
                track_id="song",
                corpus="songs",
                split=None,
                label="bass",
                category="bass",
                labels=("bass", "double bass"),
                duration_s=1.5,
                audio="a.wav",
            )
            for i in range(3)
        ]
        uri = store.database_uri(layout, model_id)
        stems = stem_table(rows, np.eye(3, dtype=np.float32))
        chunks = stem_table(rows, np.eye(3, dtype=np.float32), np.arange(3.0))
        for kind, content in ((store.STEM_TABLE, stems), (store.CHUNK_TABLE, chunks)):
            store.merge_corpus(uri, kind, content, corpus="songs", model_id=model_id)
        record = layout.lancedb / model_id / "published" / "songs"
        finish(record, {}, kinds.PUBLICATION, summary={})
    write_json(layout.models_index, index)
    write_champion(layout, FORMER, layout.runs / "former" / "model")
    (layout.lancedb / FORMER).mkdir()
    write_champion(layout, ONE, layout.runs / "film-nce" / "model")
    return layout


def test_path_and_describe(layout: DataLayout, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(layout.home, "path") == 0
    uri = capsys.readouterr().out.strip()
    assert uri == str(layout.lancedb / ONE)
    assert lancedb.connect(uri).open_table("stem_embeddings").count_rows() == 3
    assert run(layout.home, "describe", "--model", "film") == 0
    printed = capsys.readouterr().out
    assert f"model film, {OTHER}" in printed
    pattern = r"stem_embeddings: version 2, 3 rows, [\d,]+ bytes stored\n  songs: 3 rows"
    assert re.search(pattern, printed)
    assert "vector: fixed_size_list" in printed


def test_describe_shows_the_index(
    layout: DataLayout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = partial(table_index.optimize_tables, exact_rows=2)
    monkeypatch.setattr(table_index, "optimize_tables", small)
    assert run(layout.home, "optimize") == 0
    assert "stem_embeddings: version" in capsys.readouterr().out
    run(layout.home, "describe")
    printed = capsys.readouterr().out
    assert "index IvfFlat on vector: 3 rows, 0 not in it yet" in printed
    assert "search visits 1 of 1 partitions: recall" in printed


def test_export_to_parquet_and_csv(
    layout: DataLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out" / "stems.parquet"
    assert run(layout.home, "export", str(path)) == 0
    assert "3 rows" in capsys.readouterr().out
    wanted = lancedb.connect(str(layout.lancedb / ONE)).open_table("stem_embeddings").to_arrow()
    assert pl.read_parquet(path).equals(pl.DataFrame(wanted))
    path = path.with_suffix(".csv")
    run(layout.home, "export", str(path), "--where", "stem_id <> 'song/1'")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == ["songs/song/0", "songs/song/2"]
    assert "vector" not in rows[0]
    assert (rows[0]["labels"], rows[0]["duration_s"]) == ("bass > double bass", "1.5")
    run(layout.home, "export", str(path), "--table", "chunks")
    assert pl.read_csv(path)["start_s"].to_list() == [0.0, 1.0, 2.0]
    before = path.read_bytes()
    for words, message in (
        (["x.txt"], r"x\.txt ends in '\.txt'; expected \.parquet or \.csv"),
        ([str(path), "--where", "labl = 'bass'"], r"labl = 'bass'.* is not understood.*label"),
    ):
        with pytest.raises(ValueError, match=message):
            run(layout.home, "export", *words)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["stems.csv", "stems.parquet"]


@pytest.mark.parametrize("model", ["film", OTHER])
def test_a_model_is_dropped_only_when_told_to(
    layout: DataLayout, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    assert run(layout.home, "drop-model", model) == 0
    printed = capsys.readouterr().out
    assert "stem_embeddings" in printed
    assert f"bytes; delete with: stems table drop-model {model} --delete" in printed
    assert (layout.lancedb / OTHER / "published" / "songs").is_dir()
    run(layout.home, "drop-model", model, "--delete")
    assert capsys.readouterr().out.endswith("bytes deleted\n")
    assert not (layout.lancedb / OTHER).exists()
    assert store.count_rows(store.database_uri(layout, ONE), store.STEM_TABLE, "songs") == 3
    with pytest.raises(ArtifactError, match=r"holds no tables|is no model here"):
        run(layout.home, "drop-model", model)
    with pytest.raises(ArtifactError, match="stems embed CORPUS"):
        run(layout.home, "describe", "--model", "film")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("film-nce", r"is the champion: .*stems rollback"),
        (ONE, r"is the champion: .*stems rollback"),
        (FORMER, r"'stems rollback' goes back to it"),
        ("../runs", r"'../runs' is no model here"),
        ("", r"is no model here"),
        (".", r"is no model here"),
    ],
)
def test_what_is_not_dropped(layout: DataLayout, model: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        run(layout.home, "drop-model", model, "--delete")
    assert json.loads((layout.lancedb / "champion.json").read_text())["model_id"] == ONE
    assert store.count_rows(store.database_uri(layout, ONE), store.STEM_TABLE, "songs") == 3
    assert (layout.lancedb / FORMER).is_dir()
