from __future__ import annotations

import os
from pathlib import Path

import pytest

from ml.corpora.corpus import files_fingerprint
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


def test_it_changes_with_every_file_and_with_nothing_else(songs: Path):
    prints = [files_fingerprint("folder", songs)]
    assert files_fingerprint("folder", songs) == prints[0]
    (songs / "new.wav").touch()
    prints.append(files_fingerprint("folder", songs))
    os.utime(songs / "new.wav", ns=(1, 1))
    prints.append(files_fingerprint("folder", songs))
    (songs / "z.txt").write_text("longer than before")
    prints.append(files_fingerprint("folder", songs))
    (songs / "a" / "1.wav").rename(songs / "a" / "2.wav")
    prints.append(files_fingerprint("folder", songs))
    (songs / "new.wav").unlink()
    prints.append(files_fingerprint("folder", songs))
    assert len(set(prints)) == len(prints)


def test_a_list_stands_for_the_files_it_names(songs: Path, tmp_path: Path):
    """Wherever they lie; others beside it do not count."""
    csv = tmp_path / "lists" / "corpus.csv"
    csv.parent.mkdir()
    csv.write_text(f"track_id,audio,labels\none,{songs / 'a' / '1.wav'},piano\n")
    first = files_fingerprint("manifest", csv)
    (songs / "b" / "other.wav").touch()
    assert files_fingerprint("manifest", csv) == first
    (songs / "a" / "1.wav").write_text("another length")
    assert files_fingerprint("manifest", csv) != first
    with pytest.raises(CorpusError, match="does not exist"):
        files_fingerprint("manifest", tmp_path / "nowhere.csv")


def test_links_to_nothing_and_to_what_is_above_end(songs: Path):
    before = files_fingerprint("folder", songs)
    (songs / "a" / "gone.wav").symlink_to(songs / "nothing")
    (songs / "a" / "up").symlink_to(songs, target_is_directory=True)
    assert files_fingerprint("folder", songs) != before
