from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml.artifacts import DataLayout
from ml.corpora.readers.manifest import ManifestCorpus
from ml.corpora.scan import RECORD_NAME, StemScan, compact_scans, read_scans, record_scans
from ml.corpora.table import build_corpus_tracks

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


def test_the_record_of_an_earlier_version_is_taken_over(write_corpus, tmp_path: Path) -> None:
    corpus = ManifestCorpus(write_corpus(a=("bass", "drums")))
    layout = DataLayout(home=tmp_path / "home")
    first = build_corpus_tracks("c", corpus, layout)
    folder = layout.tracks("c")
    entries = [json.loads(line) for line in (folder / RECORD_NAME).read_text().splitlines()]
    old = {entry.pop("stem_id"): entry for entry in entries}
    (folder / RECORD_NAME).unlink()
    (folder / "scans.json").write_text(json.dumps(old))
    again = build_corpus_tracks("c", corpus, layout)
    assert again.reused
    assert again.fingerprint == first.fingerprint
    (corpus.root / "a_0.wav").write_bytes((corpus.root / "a_1.wav").read_bytes())
    build_corpus_tracks("c", corpus, layout)
    assert not (folder / "scans.json").exists()
    assert len((folder / RECORD_NAME).read_text().splitlines()) == 2
