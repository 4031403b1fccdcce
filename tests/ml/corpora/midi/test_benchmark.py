from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ml.artifacts import DataLayout, file_fingerprint
from ml.cli import evaluate
from ml.cli.main import main
from ml.corpora.corpus import open_corpus
from ml.corpora.midi import benchmark
from ml.corpora.midi.renderings import MidiConfig
from ml.corpora.table import build_corpus_tracks, read_corpus_tracks
from ml.settings import Settings


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
def test_it_is_a_corpus_of_the_home_that_all_models_answer(
    midi: Path,
    soundfonts: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    def build(args: argparse.Namespace, settings: Settings) -> None:
        """Prepare the corpus only: embedding and scoring have tests of their own."""
        assert args.models[:1] == ["spectrum"]
        assert args.models[-1:] == ["starter"]
        chosen = settings.corpus(args.corpus)
        corpus = open_corpus(chosen.kind, chosen.root, **chosen.options)
        build_corpus_tracks(args.corpus, corpus, settings.layout)

    monkeypatch.setattr(evaluate, "run_retrieval", build)
    layout = DataLayout(home=tmp_path / "home")
    run = ["--home", str(layout.home), "evaluate", "rendered", str(midi), "--soundfont"]
    assert main([*run, str(soundfonts[0])]) == 0
    assert "12 stems with" in capsys.readouterr().out
    table = read_corpus_tracks(layout, "rendered")
    ids = table["track_id"].unique().to_list()
    assert sorted(name[:10] for name in ids) == ["freedoom-a"] * 2 + ["freedoom-b"] * 2
    assert table["title"].n_unique() == 2
    shutil.rmtree(midi)
    midi.mkdir()
    assert main([*run, str(soundfonts[0])]) == 0  # the home has the files
    monkeypatch.setattr(benchmark, "RENDERING", {"renderings": 3})
    assert main([*run, str(soundfonts[0])]) == 2
    assert "has the corpus 'rendered' with the options" in capsys.readouterr().err


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
