"""Parquet: one file is one file, whatever stands in its path."""

from __future__ import annotations

import ast
from pathlib import Path

import pyarrow as pa
import pytest

from ml.parquet import join_tables, read_frame, read_table, write_table

ML = Path(__file__).parents[2] / "ml"


@pytest.mark.parametrize("name", ["[x] {y}", "who?", "a%20b", "50% *", "a:b", "s3:", "#2 Ünïcödé"])
def test_a_path_is_no_pattern_and_no_address(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "t.parquet"
    table = pa.table({"n": [1, 2]})
    write_table(table, path)
    assert read_table(path) == table
    assert read_frame(path)["n"].to_list() == [1, 2]
    assert join_tables([path, path], tmp_path / name / "joined.parquet") == 4
    assert [folder.name for folder in tmp_path.iterdir()] == [name]


def test_polars_reads_and_scans_parquet_in_one_place() -> None:
    calls = {
        (path.name, node.attr)
        for path in ML.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("read_parquet", "scan_parquet")
    }
    assert calls == {("parquet.py", "read_parquet")}
