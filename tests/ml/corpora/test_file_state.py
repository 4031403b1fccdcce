from __future__ import annotations

import math
import os
import random
from pathlib import Path

import pytest

from ml.corpora import file_state
from ml.corpora.file_state import FileState, read_file_state
from ml.tracks import CorpusError


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Names that sort otherwise as paths than as parts of paths."""
    names = ("a/1.wav", "a.b/1.wav", "a/b/c.wav", "a/b.wav", "a-/x.wav", "z.txt", "b/é.wav")
    for name in names:
        path = tmp_path / "songs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "songs"


def fingerprint(songs: Path) -> str:
    return read_file_state("folder", songs).fingerprint


def test_it_changes_with_every_file_and_with_nothing_else(songs: Path):
    prints = [fingerprint(songs)]
    assert fingerprint(songs) == prints[0]
    (songs / "new.wav").touch()
    prints.append(fingerprint(songs))
    os.utime(songs / "new.wav", ns=(1, 1))
    prints.append(fingerprint(songs))
    (songs / "z.txt").write_text("longer than before")
    prints.append(fingerprint(songs))
    (songs / "a" / "1.wav").rename(songs / "a" / "2.wav")
    prints.append(fingerprint(songs))
    (songs / "new.wav").unlink()
    prints.append(fingerprint(songs))
    assert len(set(prints)) == len(prints)


def test_a_walk_that_is_stopped_goes_on_where_it_was(songs: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever the size of its pieces; and what it remembers is plain."""
    whole = read_file_state("folder", songs)
    for size in (1, 2, 3, 6):
        monkeypatch.setattr(file_state, "_LOOK_EVERY", size)
        state, pieces = None, 0
        while state is None or state.after is not None:
            state = read_file_state("folder", songs, begun=state, until_s=0.0)
            state = FileState.from_json(state.to_json())
            pieces += 1
        assert state == whole
        assert pieces == math.ceil(7 / size) + 1


def test_resuming_never_skips_or_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Against the set of all files, on trees of random names."""
    monkeypatch.setattr(file_state, "_LOOK_EVERY", 1)
    draw = random.Random(0)
    for number in range(5):
        root = tmp_path / str(number)
        for _ in range(30):
            parts = [draw.choice("ab.- ") + draw.choice("xy") for _ in range(draw.randint(1, 3))]
            path = root.joinpath(*parts[:-1], parts[-1] + ".wav")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        seen: list[str] = []
        state = None
        while state is None or state.after is not None:
            state = read_file_state("folder", root, begun=state, until_s=0.0)
            seen += [state.after] if state.after else []
        assert sorted(seen) == sorted(p.relative_to(root).as_posix() for p in root.rglob("*.wav"))


def test_a_list_stands_for_the_files_it_names(songs: Path, tmp_path: Path):
    """Wherever they lie; others beside it do not count."""
    csv = tmp_path / "lists" / "corpus.csv"
    csv.parent.mkdir()
    csv.write_text(f"track_id,audio,labels\none,{songs / 'a' / '1.wav'},piano\n")
    first = read_file_state("manifest", csv)
    assert first.files == 2
    (songs / "b" / "other.wav").touch()
    assert read_file_state("manifest", csv) == first
    (songs / "a" / "1.wav").write_text("another length")
    assert read_file_state("manifest", csv).fingerprint != first.fingerprint
    with pytest.raises(CorpusError, match="does not exist"):
        read_file_state("manifest", tmp_path / "nowhere.csv")


def test_links_to_nothing_and_to_what_is_above_end(songs: Path):
    (songs / "a" / "gone.wav").symlink_to(songs / "nothing")
    (songs / "a" / "up").symlink_to(songs, target_is_directory=True)
    assert read_file_state("folder", songs).files > 7
