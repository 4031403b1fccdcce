from pathlib import Path

import pytest

from ml.corpora.registration import register_corpus
from ml.settings import SettingsError, load_settings
from ml.tracks import CorpusError


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "Old songs!.csv"
    path.write_text("track_id,audio,labels\none,bass.wav,bass\n")
    (tmp_path / "bass.wav").touch()
    return path


def test_a_corpus_is_registered_once(tmp_path: Path, csv: Path):
    home = tmp_path / "home"
    for name in ("again", "again", None):  # whoever names none means the one that is there
        assert register_corpus(load_settings(home), "manifest", csv, name) == "again"
    found = load_settings(home).corpus("again")
    assert (found.kind, found.root) == ("manifest", csv)
    with pytest.raises(SettingsError, match="choose another name"):
        register_corpus(load_settings(home), "folder", csv.parent, "again")


def test_a_name_is_made_of_the_folders(tmp_path: Path, csv: Path):
    assert register_corpus(load_settings(tmp_path / "home"), "manifest", csv) == "Old-songs"


def test_what_holds_no_stems_is_not_registered(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="holds no audio"):
        register_corpus(load_settings(tmp_path / "home"), "folder", tmp_path / "empty")
    assert not (tmp_path / "home").exists()
