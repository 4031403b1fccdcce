from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ml.artifacts import DataLayout, file_fingerprint
from ml.cli.main import main
from ml.corpora.midi import benchmark
from ml.corpora.midi.renderings import MidiConfig
from ml.corpora.table import read_corpus_tracks


def test_no_corpus_of_midi_files_trains_on_its_files():
    assert {MidiConfig().split(sha256) for sha256 in benchmark.COMPOSITIONS.values()} == {"test"}
    assert len(set(benchmark.COMPOSITIONS.values())) == len(benchmark.COMPOSITIONS)
    assert {name.partition("-")[0] for name in benchmark.COMPOSITIONS} == set(benchmark.SOURCES)


@pytest.fixture
def midi(
    song: Callable[..., Path],
    soundfonts: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with a benchmark of two files, by other names."""
    folder = tmp_path / "midi"
    files = {
        f"freedoom-{name}": file_fingerprint(song(folder / f"my {name}.mid", (0, 33), pitch=pitch))
        for name, pitch in (("a", 50), ("b", 55))
    }
    monkeypatch.setattr(benchmark, "COMPOSITIONS", files)
    monkeypatch.setattr(benchmark, "RENDERING", {"renderings": 2, "seconds": 8.0})
    monkeypatch.setattr(benchmark, "SOUNDFONT_SHA256", file_fingerprint(soundfonts[0]))
    return folder


@pytest.mark.usefixtures("starter")
def test_it_is_scored_by_all_that_is_there_and_its_songs_are_drawn_whole(
    midi: Path, soundfonts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    home = tmp_path / "home"
    run = ["--home", str(home), "evaluate", "rendered", str(midi), "--soundfont"]
    assert main([*run, str(soundfonts[0]), "--json", "--resamples", "100"]) == 0
    rows = json.loads(capsys.readouterr().out)
    table = [row for row in rows if row["evaluation"] == "retrieval"]
    assert {row["model"] for row in table} >= {"spectrum", "starter", "label"}
    ids = read_corpus_tracks(DataLayout(home=home), "rendered")["track_id"].unique().to_list()
    assert len(ids) == 4
    assert all(name.startswith(("freedoom-a", "freedoom-b")) for name in ids)
    scores = json.loads((home / "scores/retrieval/rendered/manifest.json").read_text())
    assert scores["summary"]["intervals"].endswith("over 2 tracks")


def test_what_is_missing_is_named(
    midi: Path, soundfonts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def refusal(soundfont: Path) -> str:
        run = ["--home", str(tmp_path / "home"), "evaluate", "rendered", str(midi)]
        assert main([*run, "--soundfont", str(soundfont)]) == 2
        return capsys.readouterr().err

    assert "has other bytes than the benchmark's soundfont" in refusal(soundfonts[1])
    assert "does not exist" in refusal(tmp_path / "x.sf2")
    (midi / "my b.mid").write_bytes(b"MThd")
    said = refusal(soundfonts[0])
    assert "lacks 1 of the 2 files of the benchmark: freedoom-b (" in said
    assert "github.com/freedoom" in said
    assert not (tmp_path / "home").exists()
