"""Databases in a folder and at ``s3://``, the latter against a moto server on this machine."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ml.artifacts import ArtifactError, DataLayout
from ml.retrieval.champion.champion import drop_model
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.queries.retriever import StemRetriever
from ml.retrieval.tables import database
from ml.retrieval.tables.database import (
    commit,
    database_uri,
    drop_tables,
    ensure_table,
    open_table,
    table_names,
)
from ml.retrieval.tables.inspect import describe_tables
from ml.retrieval.tables.publish import CHUNK_TABLE, STEM_TABLE, count_rows, publish_corpus
from ml.retrieval.tables.search import StemTables
from ml.settings import load_settings

PUBLISH = """
import sys
import numpy as np
from ml.retrieval.embeddings.files import StemRow, stem_table
from ml.retrieval.tables.publish import STEM_TABLE, merge_corpus

corpus = sys.argv[1]
stems = [
    StemRow(stem_id=f"song/{i}", track_id="song", corpus=corpus, split=None, label="bass",
            category=None, labels=("bass",), duration_s=1.0, audio="a.wav")
    for i in range(200)
]
rows = stem_table(stems, np.eye(200, 4, dtype=np.float32) + 1)
for uri in sys.argv[2:]:
    print("ready", flush=True)
    sys.stdin.readline()
    merge_corpus(uri, STEM_TABLE, rows, corpus=corpus, model_id="m")
"""
"""Publishes a corpus to databases that do not exist yet, each when told to."""

SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False)], metadata={"model_id": "m"})


def publish_at_once(uris: list[str]) -> None:
    """Four processes: two publish the same rows, two others other corpora."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISH, corpus, *uris],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for corpus in "aabc"
    ]
    try:
        for _ in uris:
            assert [process.stdout.readline() for process in processes if process.stdout] == (
                ["ready\n"] * len(processes)
            )
            for process in processes:
                if process.stdin:
                    process.stdin.write("go\n")
                    process.stdin.flush()
        for process in processes:
            process.communicate(timeout=600)
            assert process.returncode == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.service
@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_processes_at_once_make_one_table_and_lose_no_row(tmp_path: Path) -> None:
    folders = [str(tmp_path / str(i)) for i in range(4)]
    uris = [*folders, *(f"s3://stems/{i}" for i in range(2))]
    publish_at_once(uris)
    for uri in uris:
        (table,) = describe_tables(uri)
        assert table.rows_by_corpus == {"a": 200, "b": 200, "c": 200}
        assert table.version == 5  # made once, written by each of four
    for folder in folders:
        left = {path.name for path in Path(folder).iterdir()}
        assert left == {f"{STEM_TABLE}.lance", ".lock"}


def test_where_databases_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def uri(setting: str | None) -> str:
        layout = load_settings(tmp_path, {"lancedb": {"uri": setting}}).layout
        return database_uri(layout, "m")

    assert uri(None) == str(tmp_path / "lancedb" / "m")
    assert uri("tables") == str(tmp_path / "tables" / "m")
    assert uri("/elsewhere") == "/elsewhere/m"
    assert uri("s3://bucket/prefix/") == "s3://bucket/prefix/m"
    monkeypatch.setenv("STEMS_LANCEDB__URI", "s3://other")
    assert database_uri(load_settings(tmp_path).layout, "m") == "s3://other/m"


def test_looking_makes_nothing(tmp_path: Path) -> None:
    uri = str(tmp_path / "none")
    assert table_names(uri) == []
    with pytest.raises(ArtifactError, match=r"none holds no table x; .*stems embed"):
        open_table(uri, "x")
    drop_tables(uri)
    assert not (tmp_path / "none").exists()


def test_the_second_maker_of_a_table_leaves_it_alone(tmp_path: Path) -> None:
    uri = str(tmp_path / "db")
    ensure_table(uri, "t", SCHEMA).add([{"key": "a"}])
    database._create_table(uri, "t", SCHEMA)  # as one that looked before the first was done
    assert open_table(uri, "t").to_arrow().to_pylist() == [{"key": "a"}]
    assert {path.name for path in (tmp_path / "db").iterdir()} == {"t.lance", ".lock"}
    drop_tables(uri)
    assert not (tmp_path / "db").exists()


class Fails:
    """A write that meets an error some times."""

    def __init__(self, times: int, error: Exception):
        self.left, self.error, self.calls = times, error, 0

    def __call__(self) -> str:
        self.calls += 1
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return "written"


def test_collisions_are_put_up_with_so_many_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAITS_S", (0.0, 0.0))
    table = ensure_table(str(tmp_path), "t", SCHEMA)
    collision = RuntimeError("lance error: Retryable commit conflict for version 5\nat x.rs")
    assert commit(table, Fails(2, collision)) == "written"
    with pytest.raises(ArtifactError, match=r"t is being written by others, tried 3 times .*5\);"):
        commit(table, Fails(3, collision))
    other = Fails(1, RuntimeError("no space left"))
    with pytest.raises(RuntimeError, match="no space left"):
        commit(table, other)
    assert other.calls == 1


@pytest.mark.service
def test_a_corpus_published_to_s3_is_found_there(
    s3: Any, write_corpus: Any, make_sine: Any, layout: DataLayout, band_model: Any
) -> None:
    write_corpus("songs", {"one": {"a": ("bass", make_sine(2, 2.0))}})
    embed_corpus("songs", [band_model()], layout, {})
    remote = replace(layout, lancedb_uri="s3://stems/tables")
    uri = "s3://stems/tables/id-bands"
    assert publish_corpus(remote, "id-bands", "songs").summary["uri"] == uri
    assert publish_corpus(remote, "id-bands", "songs").reused
    assert not (layout.lancedb / "id-bands" / f"{STEM_TABLE}.lance").exists()
    chunks, stems = describe_tables(uri)
    assert (chunks.rows, stems.rows) == (2, 1)
    assert stems.stored_bytes > 0
    assert count_rows(uri, STEM_TABLE, "songs") == 1
    candidate = StemRetriever(band_model(), uri).query(make_sine(2, 2.0), k=1)[0]
    assert (candidate.stem_id, candidate.best_start_s) == ("one/a", 0.0)
    assert StemTables(uri).is_current()
    assert not publish_corpus(layout, "id-bands", "songs").reused  # the home is another place
    for item in s3.list_objects_v2(Bucket="stems")["Contents"]:
        body = s3.get_object(Bucket="stems", Key=item["Key"])["Body"].read()
        assert b"very-secret" not in body
    dropped = drop_model(remote, "id-bands", delete=True)
    assert set(dropped.tables) == {STEM_TABLE, CHUNK_TABLE}
    assert table_names(uri) == []


@pytest.mark.service
@pytest.mark.usefixtures("s3")
def test_the_second_maker_of_a_table_at_s3_leaves_it_alone() -> None:
    uri = "s3://stems/db"
    ensure_table(uri, "t", SCHEMA).add([{"key": "a"}])
    database._create_table(uri, "t", SCHEMA)
    assert open_table(uri, "t").to_arrow().to_pylist() == [{"key": "a"}]


@pytest.mark.service
@pytest.mark.usefixtures("s3")
def test_a_store_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match=r"s3://nowhere/db cannot be read.*AWS_ENDPOINT_URL"):
        table_names("s3://nowhere/db")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ArtifactError, match=r"s3://stems/db cannot be read.*AWS_ENDPOINT_URL"):
        StemTables("s3://stems/db")
