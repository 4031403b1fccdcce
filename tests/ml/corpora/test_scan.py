from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml.corpora.scan import RECORD_NAME, StemScan, compact_scans, read_scans, record_scans

ROOT = Path("/music")
STAMPS = {"t/a": "1", "t/b": "1", "t/c": "1"}


def scan(active_s: float, problem: str | None = None) -> StemScan:
    return StemScan(rate_hz=44100, active_s=active_s, problem=problem)


def test_measurements_come_back_while_their_stamp_holds(tmp_path: Path) -> None:
    record_scans(tmp_path, [("t/a", scan(1.0)), ("t/b", scan(2.0))], STAMPS)
    assert read_scans(tmp_path, STAMPS, ROOT) == {"t/a": scan(1.0), "t/b": scan(2.0)}
    assert read_scans(tmp_path, STAMPS | {"t/a": "2"}, ROOT) == {"t/b": scan(2.0)}
    record_scans(tmp_path, [("t/a", scan(3.0))], STAMPS | {"t/a": "2"})
    assert read_scans(tmp_path, STAMPS | {"t/a": "2"}, ROOT)["t/a"] == scan(3.0)


def test_what_came_in_before_an_error_is_kept(tmp_path: Path) -> None:
    def failing():
        yield "t/a", scan(1.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_scans(tmp_path, failing(), STAMPS)
    assert read_scans(tmp_path, STAMPS, ROOT) == {"t/a": scan(1.0)}


@pytest.mark.parametrize("lost", range(1, 12))
def test_a_line_cut_short_is_lost_alone(tmp_path: Path, lost: int) -> None:
    record_scans(tmp_path, [("t/a", scan(1.0)), ("t/b", scan(2.0))], STAMPS)
    path = tmp_path / RECORD_NAME
    path.write_bytes(path.read_bytes()[: -13 * lost])
    record_scans(tmp_path, [("t/c", scan(3.0))], STAMPS)
    kept = read_scans(tmp_path, STAMPS, ROOT)
    assert kept == {"t/a": scan(1.0), "t/c": scan(3.0)}


def test_a_problem_is_remembered_only_for_the_root_it_names(tmp_path: Path) -> None:
    bad = scan(0.0, "/music/t/a.wav is empty")
    record_scans(tmp_path, [("t/a", bad)], STAMPS)
    assert read_scans(tmp_path, STAMPS, ROOT) == {"t/a": bad}
    assert read_scans(tmp_path, STAMPS, Path("/elsewhere")) == {}


def test_compacting_leaves_one_line_a_stem(tmp_path: Path) -> None:
    for active_s in (1.0, 2.0, 3.0):
        record_scans(tmp_path, [("t/a", scan(active_s)), ("t/b", scan(0.0))], STAMPS)
    scans = read_scans(tmp_path, {"t/a": "1"}, ROOT)
    compact_scans(tmp_path, scans, STAMPS)
    (line,) = (tmp_path / RECORD_NAME).read_text().splitlines()
    assert json.loads(line)["active_s"] == 3.0
    assert read_scans(tmp_path, STAMPS, ROOT) == scans
