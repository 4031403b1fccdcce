from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from ml.cli import corpus
from ml.settings import SettingsError, load_settings
from ml.tracks import CorpusError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder corpus of one track with two stems and one broken file."""
    track = tmp_path / "songs" / "one"
    track.mkdir(parents=True)
    for name, level in (("bass", 0.5), ("drums", 0.25)):
        soundfile.write(
            track / f"{name}.wav", np.repeat([[level], [-level]] * 8000, 2, axis=1), 16000
        )
    (track / "voice.wav").write_bytes(b"torn")
    return tmp_path / "songs"


def _stems_corpus(home: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    corpus.add_parser(parser.add_subparsers())
    args = parser.parse_args(["corpus", *words])
    return args.run(args, load_settings(home))


def test_inspect_prints_a_line_a_stem_and_leaves_nothing(tmp_path, folder, capsys) -> None:
    home = tmp_path / "home"
    assert _stems_corpus(home, "inspect", "folder", str(folder)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert " ".join(lines[1].split()) == "one bass bass 1.0 16000 2 -6.0 -6.0 100 %"
    assert lines[3].endswith("or take it out of the corpus")
    assert lines[4].startswith("1 track, 3 stems, 2 usable")
    assert lines[6].split(maxsplit=1) == ["1", "cannot be decoded  convert it to wav or flac"]
    assert not home.exists()


def test_inspect_json(tmp_path, folder, capsys) -> None:
    _stems_corpus(tmp_path, "inspect", "folder", str(folder), "--json", "--option", "labels=none")
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["stems"] == 3
    assert [stem["stem_id"] for stem in found["stems"]] == ["one/bass", "one/drums", "one/voice"]
    assert found["stems"][0]["labels"] == []
    assert "cannot be decoded" in found["stems"][2]["problem"]


def test_add_build_list_and_inspect_by_name(tmp_path, folder, capsys) -> None:
    home = tmp_path / "home"
    assert _stems_corpus(home, "add", "mine", "folder", str(folder)) == 0
    assert _stems_corpus(home, "build", "mine") == 0
    out, err = capsys.readouterr()
    assert "is made: 1 track, 3 stems, 2 usable" in out
    assert "voice.wav cannot be decoded" in err
    _stems_corpus(home, "list")
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [
        ["demo", "demo"],
        ["demo-plain", "demo"],
        ["demo-swapped", "demo"],
        ["mine", "folder"],
    ]
    assert listed[-1].endswith("1 problem")
    assert _stems_corpus(home, "inspect", "mine") == 0


def test_add_keeps_comments_and_everything_else(tmp_path, folder) -> None:
    home = tmp_path / "home"
    home.mkdir()
    before = (
        "# my settings\n"
        "training:\n  seed: 3  # lucky\n"
        "corpora:  # mine\n"
        "    old: {kind: folder, root: /old}\n"
        "    # the end of the list\n"
        "\n"
        "# after\n"
        "tracking:\n  experiment: x\n"
    )
    (home / "config.yaml").write_text(before)
    _stems_corpus(home, "add", "new", "folder", str(folder), "--option", "labels=none")
    after = (home / "config.yaml").read_text()
    assert set(before.splitlines()) <= set(after.splitlines())
    assert yaml.safe_load(after) == yaml.safe_load(before) | {
        "corpora": {
            "old": {"kind": "folder", "root": "/old"},
            "new": {"kind": "folder", "root": str(folder), "options": {"labels": "none"}},
        }
    }
    assert [path.name for path in home.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "training:\n  seed: 1\n"])
def test_add_to_a_file_without_corpora_keeps_the_demo(tmp_path, folder, text) -> None:
    (tmp_path / "config.yaml").write_text(text)
    _stems_corpus(tmp_path, "add", "new", "folder", str(folder))
    settings = load_settings(tmp_path)
    assert list(settings.corpora) == ["demo", "demo-plain", "demo-swapped", "new"]
    assert settings.corpora["new"].root == Path("songs")  # below the home: relative to it


def test_add_to_an_emptied_list_adds_only_the_new_one(tmp_path, folder) -> None:
    (tmp_path / "config.yaml").write_text("corpora: {}  # none\n")
    _stems_corpus(tmp_path, "add", "new", "folder", str(folder))
    assert list(load_settings(tmp_path).corpora) == ["new"]


@pytest.mark.parametrize("name", ["../x", "", "a b", ".hidden"])
def test_add_refuses_names_that_are_no_folder_names(tmp_path, folder, name) -> None:
    with pytest.raises(SettingsError, match="no folder name"):
        _stems_corpus(tmp_path, "add", name, "folder", str(folder))


def test_add_refuses_what_is_taken_wrong_or_not_editable(tmp_path, folder) -> None:
    with pytest.raises(SettingsError, match="already"):
        _stems_corpus(tmp_path, "add", "demo", "folder", str(folder))
    with pytest.raises(CorpusError, match="does not exist"):
        _stems_corpus(tmp_path, "add", "x", "folder", str(tmp_path / "nowhere"))
    text = "corpora: {old: {kind: folder, root: /old}}\n"
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(
        SettingsError, match=r"add under 'corpora:' \{x: \{kind: folder, root: songs\}\}"
    ):
        _stems_corpus(tmp_path, "add", "x", "folder", str(folder))
    assert (tmp_path / "config.yaml").read_text() == text
