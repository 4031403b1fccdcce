from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from ml.corpora.readers.listing import find_file, id_of, walk_files
from ml.corpora.readers.manifest import ManifestCorpus
from ml.tracks import CorpusError


@pytest.mark.parametrize(("stored", "typed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_file_is_found_in_either_form(tmp_path: Path, stored: Any, typed: Any) -> None:
    path = tmp_path / unicodedata.normalize(stored, "Björn/Bläser é.wav")
    path.parent.mkdir()
    path.touch()
    asked = tmp_path / unicodedata.normalize(typed, "Björn/Bläser é.wav")
    assert find_file(asked).samefile(path)
    text = f"track_id,audio,labels\nlied,{asked.relative_to(tmp_path)},wind\n"
    (tmp_path / "c.csv").write_text(text, encoding="utf-8")
    (track,) = ManifestCorpus(tmp_path / "c.csv").tracks()
    assert track.stems[0].files[0].samefile(path)
    assert find_file(tmp_path / "nö" / "where.wav") == tmp_path / "nö" / "where.wav"


def test_ids_are_text_whatever_the_bytes() -> None:
    assert id_of(os.fsdecode(b"H\xf6he")) == id_of("Höhe") == id_of("Ho\u0308he") == "Höhe"


def test_links_are_followed_once_and_never_round(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "x.wav").touch()
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "disk")
    (root / "b").symlink_to(tmp_path / "disk")
    (root / "round").symlink_to(root)
    (tmp_path / "disk" / "up").symlink_to(root)
    assert [path.relative_to(root) for path in walk_files(root)] == [Path("a/x.wav")]


def test_a_start_that_fills_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("track_id,audio,labels,start_s\nt,a.wav,bass,1e6\n")
    with pytest.raises(CorpusError, match=r"line 2 has start_s '1e6'; expected seconds, 0 to"):
        ManifestCorpus(path)
