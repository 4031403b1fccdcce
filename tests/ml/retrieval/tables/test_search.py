"""Both galleries, in memory and through the index, against the obvious scan of all rows."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from ml.artifacts import ArtifactError
from ml.retrieval.embeddings.files import vector_column, vectors_of
from ml.retrieval.tables import index as table_index
from ml.retrieval.tables.index import optimize_tables
from ml.retrieval.tables.publish import STEM_TABLE, merge_corpus
from ml.retrieval.tables.search import StemTables

COUNT, EXACT = 3000, 500
"""Stems in the large table, and the size up to which search is exact."""


@pytest.fixture(scope="module")
def stems(clustered_stems: Callable[..., pa.Table]) -> pa.Table:
    return clustered_stems(COUNT)


@pytest.fixture(scope="module")
def shared_uri(stems: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table with an index of 30 partitions, all of them visited; read only."""
    uri = str(tmp_path_factory.mktemp("search"))
    merge_corpus(uri, STEM_TABLE, stems, corpus="many", model_id="m")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_index, "ROWS_A_PARTITION", 100)
        patch.setattr(table_index, "WANTED_RECALL", 1.01)  # out of reach: all are visited
        optimize_tables(uri, exact_rows=EXACT)
    return uri


@pytest.fixture
def uri(shared_uri: str, tmp_path: Path) -> str:
    """A copy to write to."""
    return str(shutil.copytree(shared_uri, tmp_path / "db"))


@pytest.fixture(params=["memory", "index"], scope="module")
def tables(shared_uri: str, request: pytest.FixtureRequest) -> StemTables:
    return StemTables(shared_uri, exact_rows=COUNT if request.param == "memory" else EXACT)


def queries(count: int, dim: int = 16) -> np.ndarray:
    vectors = np.random.default_rng(3).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def expected(
    stems: pa.Table,
    query: np.ndarray,
    k: int,
    keep: Callable[[dict[str, Any]], bool] = lambda _: True,
    per_track: int = COUNT,
) -> list[tuple[str, float]]:
    """Ids and scores by a scan of every row."""
    scores = vectors_of(stems) @ query
    rows = stems.drop_columns(["vector"]).to_pylist()
    found, tracks = [], Counter()
    for i in np.argsort(-scores, kind="stable"):
        if keep(rows[i]) and tracks[rows[i]["track_id"]] < per_track:
            tracks[rows[i]["track_id"]] += 1
            found.append((rows[i]["stem_id"], float(scores[i])))
    return found[:k]


FILTERS: list[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
    ({}, lambda _: True),
    ({"where": "category = 'category 1'"}, lambda row: row["category"] == "category 1"),
    ({"where": "label = 'label 4'"}, lambda row: row["label"] == "label 4"),
    ({"where": "array_has(labels, 'label 4')"}, lambda row: row["label"] == "label 4"),
    (
        {"where": "duration_s < 3 OR duration_s > 2998"},
        lambda row: not 3 <= row["duration_s"] < 2999,
    ),
    ({"where": "duration_s >= 7 -- most"}, lambda row: row["duration_s"] >= 7),
    ({"exclude_tracks": ["t5", "t'6"]}, lambda row: row["track_id"] != "t5"),
]


@pytest.mark.parametrize(("options", "keep"), FILTERS)
def test_finds_what_a_scan_finds(
    tables: StemTables, stems: pa.Table, options: dict[str, Any], keep: Callable[..., bool]
) -> None:
    for query in queries(8):
        hits = tables.search(query, 10, **options)
        wanted = expected(stems, query, 10, keep)
        assert [hit.row["stem_id"] for hit in hits] == [stem for stem, _ in wanted]
        scores = [score for _, score in wanted]
        assert [hit.score for hit in hits] == pytest.approx(scores, abs=1e-5)
        assert all(keep(hit.row) for hit in hits)


def test_no_more_of_a_track_than_asked(tables: StemTables, stems: pa.Table) -> None:
    for query in queries(4):
        hits = tables.search(query, 200, per_track=1)
        wanted = expected(stems, query, 200, per_track=1)
        assert [hit.row["stem_id"] for hit in hits] == [stem for stem, _ in wanted]
    every = tables.search(queries(1)[0], COUNT, per_track=2)
    assert Counter(Counter(hit.row["track_id"] for hit in every).values()) == {2: COUNT // 4}


def test_as_many_as_there_are(tables: StemTables) -> None:
    query = queries(1)[0]
    assert len({hit.row["key"] for hit in tables.search(query, COUNT)}) == COUNT == len(tables)
    assert tables.search(query, 3, where="label = 'none'") == []


def test_equal_scores_come_in_the_order_of_their_keys(tmp_path: Path, clustered_stems: Any) -> None:
    rows = clustered_stems(600)
    same = vector_column(np.eye(16)[[0] * 600])
    rows = rows.set_column(rows.schema.get_field_index("vector"), "vector", same)
    uri = str(tmp_path / "same")
    merge_corpus(uri, STEM_TABLE, rows, corpus="many", model_id="m")
    for exact_rows in (1000, 100):
        optimize_tables(uri, exact_rows=exact_rows)
        keys = [
            hit.row["key"]
            for hit in StemTables(uri, exact_rows=exact_rows).search(np.eye(16)[0], 20)
        ]
        assert keys == sorted(keys)


@pytest.mark.parametrize(
    "where",
    [
        "categry = 'category 1'",
        "category = 'category 1",
        "",
        "category",
        "category = 5",
        "duration_s > 1) OR (duration_s < 1",
        "duration_s > 1; DROP TABLE stems",
        "(duration_s > 1",
        "key = \x00",
        "labels = 'x'",
    ],
)
def test_a_wrong_filter_names_itself_and_the_columns(tables: StemTables, where: str) -> None:
    with pytest.raises(
        ValueError, match=r"is not understood .*key, stem_id, .*musical_key$"
    ) as found:
        tables.search(queries(1)[0], 3, where=where)
    assert repr(where) in str(found.value)
    assert "\n" not in str(found.value)


def test_rows_that_came_after_the_index_are_found(uri: str, clustered_stems: Any) -> None:
    before = StemTables(uri, exact_rows=EXACT)
    later = clustered_stems(40, corpus="later", seed=5)
    merge_corpus(uri, STEM_TABLE, later, corpus="later", model_id="m")
    assert not before.is_current()
    assert before.search(queries(1)[0], 3, where="corpus = 'later'") == []
    tables = StemTables(uri, exact_rows=EXACT)
    for vector, stem_id in zip(vectors_of(later), later["stem_id"].to_pylist(), strict=True):
        best = tables.search(vector, 1)[0]
        assert best.row["key"] == f"later/{stem_id}"
    assert len(tables.search(queries(1)[0], 60, where="corpus = 'later'")) == 40


def test_a_large_table_without_an_index_is_searched_exactly(
    tmp_path: Path, stems: pa.Table, caplog: pytest.LogCaptureFixture
) -> None:
    uri = str(tmp_path / "bare")
    merge_corpus(uri, STEM_TABLE, stems, corpus="many", model_id="m")
    with caplog.at_level(logging.WARNING):
        tables = StemTables(uri, exact_rows=EXACT)
        found = [hit.row["stem_id"] for hit in tables.search(queries(1)[0], 25)]
    assert found == [stem for stem, _ in expected(stems, queries(1)[0], 25)]
    assert "stems table optimize" in caplog.text


def test_rows_by_key_and_counts(tables: StemTables, stems: pa.Table) -> None:
    rows = stems.drop_columns(["vector"]).to_pylist()
    keys = [f"many/{rows[i]['stem_id']}" for i in (7, 3, 7)]
    row = tables.row(keys[1])
    assert row is not None
    assert {name: row[name] for name in rows[3]} == rows[3]
    assert tables.row("many/none' OR '1'='1") is None
    assert np.array_equal(tables.vectors(keys), vectors_of(stems)[[7, 3, 7]])
    assert tables.vectors([]).shape == (0, 16)
    with pytest.raises(KeyError):
        tables.vectors(["none"])
    assert tables.label_counts() == dict(sorted(Counter(r["label"] for r in rows).items()))
    assert tables.corpora() == {"many": COUNT}


def test_many_threads_at_once(shared_uri: str, stems: pa.Table) -> None:
    asked = queries(24)
    for exact_rows in (COUNT, EXACT):
        alone = StemTables(shared_uri, exact_rows=exact_rows)
        wanted = [[hit.row["key"] for hit in alone.search(query, 5)] for query in asked]
        shared = StemTables(shared_uri, exact_rows=exact_rows)

        def ask(query: np.ndarray, tables: StemTables = shared) -> list[str]:
            assert tables.is_current()
            assert tables.corpora() == {"many": len(stems)}
            return [hit.row["key"] for hit in tables.search(query, 5)]

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(ask, asked)) == wanted


def test_is_current_until_the_table_changes_or_goes(uri: str, clustered_stems: Any) -> None:
    tables = StemTables(uri)
    assert tables.is_current()
    assert tables.is_current()
    merge_corpus(uri, STEM_TABLE, clustered_stems(4), corpus="many", model_id="m")
    assert not tables.is_current()
    assert StemTables(uri).is_current()
    gone = StemTables(uri)
    lancedb.connect(uri).drop_table(STEM_TABLE)
    assert not gone.is_current()


def test_a_newer_format_is_refused(tmp_path: Path, stems: pa.Table) -> None:
    newer = stems.slice(0, 4)
    newer = newer.add_column(0, "key", pa.array(["a", "b", "c", "d"]))
    newer = newer.replace_schema_metadata({"model_id": "m", "format_version": "99"})
    lancedb.connect(tmp_path / "newer").create_table(STEM_TABLE, newer)
    with pytest.raises(ArtifactError, match=r"format version 99.*reads up to 1"):
        StemTables(tmp_path / "newer")
