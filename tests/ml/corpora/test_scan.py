from __future__ import annotations

import json
import os
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ml.corpora.scan import (
    RECORD_NAME,
    StemScan,
    compact_scans,
    read_scans,
    record_scans,
    scan_stem,
    scan_stems,
    without_mixes,
)
from ml.tracks import Stem, Track

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


def _track(tmp_path: Path, **stems: np.ndarray) -> tuple[Track, list[StemScan]]:
    for name, waveform in stems.items():
        soundfile.write(tmp_path / f"{name}.wav", waveform, 16000, subtype="FLOAT")
    track = Track(
        track_id="t",
        stems=tuple(Stem(stem_id=f"t/{n}", files=(tmp_path / f"{n}.wav",)) for n in stems),
    )
    return track, [scan_stem(stem) for stem in track.stems]


def _noises(count: int, seconds: float = 70) -> list[np.ndarray]:
    levels = 10 ** np.linspace(-0.5, -1.5, count)
    rng = np.random.default_rng(0)
    return [0.5 * level * rng.standard_normal(round(16000 * seconds)) for level in levels]


def _left_out(track: Track, scans: list[StemScan]) -> list[str]:
    judged = without_mixes(track, scans)
    assert all("looks like the mix" in (s.problem or "") for s in judged if s.active_s == 0)
    return [
        stem.stem_id.removeprefix("t/")
        for stem, scan in zip(track.stems, judged, strict=True)
        if scan.active_s == 0
    ]


@pytest.mark.parametrize("gain", [0.1, 1.0, 2.5])
def test_the_sum_of_the_others_is_a_mix_at_any_level(tmp_path: Path, gain: float) -> None:
    a, b, c = _noises(3)
    bounce = gain * (a + b + c)
    track, scans = _track(tmp_path, a=a, bounce=bounce, b=b, c=c)
    assert _left_out(track, scans) == ["bounce"]
    track, scans = _track(tmp_path, a=a, bounce=bounce, loud=np.tanh(a + b + c), b=b, c=c)
    assert sorted(_left_out(track, scans)) == ["bounce", "loud"]


def test_stems_doubles_and_partial_sums_are_no_mixes(tmp_path: Path) -> None:
    a, b, c = _noises(3)
    assert _left_out(*_track(tmp_path, a=a, b=b, c=c)) == []
    assert _left_out(*_track(tmp_path, left=a, right=a, c=0.3 * c)) == []
    assert _left_out(*_track(tmp_path, a=a, b=b)) == []
    assert _left_out(*_track(tmp_path, bus=b + c, b=b, c=c, a=2 * a)) == []


def test_one_bad_file_never_ends_a_scan(tmp_path: Path) -> None:
    good = tmp_path / "good.wav"
    soundfile.write(good, _noises(1, 1)[0], 16000)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/H\xf6he.wav"))
    odd.write_bytes(good.read_bytes())
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    paths = [odd, pipe, tmp_path, tmp_path / "missing.wav", tmp_path / f"{'x' * 300}.wav", good]
    *bad, last = scan_stems([Stem(stem_id=str(n), files=(p,)) for n, p in enumerate(paths)])
    assert last.problem is None
    assert all(scan.active_s == 0 and scan.problem for scan in bad)
    assert "Höhe.wav has a name that is not UTF-8" in (bad[0].problem or "")


def test_a_process_that_dies_names_its_file_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.corpora.scan.process_pool", lambda _: DyingPool())
    stems = [Stem(stem_id=f"t/{n}", files=(tmp_path / f"{n}.wav",)) for n in range(40)]
    scans = list(scan_stems(stems, workers=2))
    assert len(scans) == 40
    assert "7.wav ended the process" in (scans[7].problem or "")
    assert all("does not exist" in (s.problem or "") for n, s in enumerate(scans) if n != 7)


class DyingPool:
    """A pool whose process dies over the stem t/7."""

    def __enter__(self) -> DyingPool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function, jobs, **_: int):
        for job in jobs:
            yield self.submit(function, job).result()

    def submit(self, function, job) -> Future:
        future = Future()
        if job[0].stem_id == "t/7":
            future.set_exception(BrokenProcessPool("died"))
        else:
            future.set_result(function(job))
        return future
