from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ml import kinds
from ml.cli.main import main
from ml.locks import lock
from ml.retrieval.embeddings import parts
from ml.settings import load_settings

RATE_HZ = 16_000


def write_song(root: Path, name: str, seed: int) -> None:
    draw = np.random.default_rng(seed)
    (root / name).mkdir(parents=True)
    for stem in ("bass guitar", "piano"):
        noise = 0.1 * draw.standard_normal(3 * RATE_HZ)
        soundfile.write(root / name / f"{stem}.wav", noise, RATE_HZ)


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    for seed, name in enumerate(("first", "second")):
        write_song(tmp_path / "My songs", name, seed)
    return tmp_path / "My songs"


def index(home: Path, *arguments: object) -> int:
    return main(["--home", str(home), "index", *map(str, arguments)])


def printed_query(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The words of the command that was printed, without the program."""
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "--instrument" in line]
    return shlex.split(line)[1:]


def test_a_folder_is_searched_without_training(
    songs: Path,
    starter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    home = tmp_path / "home"
    assert index(home, songs) == 0
    query = printed_query(capsys)
    assert main([*query, "--json"]) == 0  # all, as there are fewer than ten
    found = json.loads(capsys.readouterr().out)
    assert {row["stem_id"] for row in found} == {
        f"{song}/{stem}" for song in ("first", "second") for stem in ("bass guitar", "piano")
    }
    assert "no model was promoted yet: starter answers" in caplog.text

    monkeypatch.setattr(parts, "_embed", None)  # nothing is embedded again
    assert index(home, songs) == 0  # the corpus keeps its name
    assert printed_query(capsys) == query
    monkeypatch.undo()
    monkeypatch.setattr(kinds, "SHIPPED", starter)
    write_song(songs, "third", 2)
    assert index(home, songs) == 0
    assert "scanning stems: 2 done" in caplog.text
    assert list(load_settings(home).corpora)[-1] == "My-songs"


@pytest.mark.usefixtures("starter")
def test_what_is_no_corpus_begins_no_home(
    songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts" / "song").mkdir(parents=True)
    (tmp_path / "texts" / "song" / "words.txt").write_text("la la la")
    for folder, said in {
        tmp_path / "missing": "does not exist",
        tmp_path / "empty": "holds no audio",
        tmp_path / "texts": "holds no audio",
        songs / "first": "holds audio files itself",
    }.items():
        assert index(tmp_path / "home", folder) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


def test_refusals_say_what_to_do(
    songs: Path,
    starter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    home = tmp_path / "home"

    def refusal(*arguments: object) -> str:
        assert index(home, songs, *arguments) != 0
        said = capsys.readouterr().err
        assert said.startswith("stems index: ")
        return said

    assert "choose another name" in refusal("--name", "demo")
    assert "is no folder name" in refusal("--name", "a/b")
    with lock(home / ".index.lock"):
        assert "is being written by" in refusal()
    assert not load_settings(home).layout.config_path.exists()

    damaged = shutil.copytree(starter, tmp_path / "damaged")
    monkeypatch.setattr(kinds, "SHIPPED", damaged)
    weights = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(weights[:-100])
    assert "pip install --force-reinstall" in refusal()
    (damaged / "model.safetensors").write_bytes(weights)
    manifest = json.loads((damaged / "manifest.json").read_text())
    manifest["label_encoder"]["fingerprint"] = "0" * 64
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    assert "was trained with minilm (384 dimensions, 000000000000)" in refusal()
    monkeypatch.setattr(kinds, "SHIPPED", tmp_path / "nothing")
    assert "is not in this installation" in refusal()
