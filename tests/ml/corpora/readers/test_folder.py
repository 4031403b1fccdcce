from __future__ import annotations

from pathlib import Path

import pytest

from ml.corpora.readers.folder import FolderCorpus, labels_of_name
from ml.tracks import CorpusError


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_are_tracks_and_files_are_stems(tmp_path: Path) -> None:
    _touch(tmp_path, "b/Bass.wav", "b/01_drums.flac", "b/notes.txt", "b/mixture.wav", "b/.x.wav")
    _touch(tmp_path, "a/lead vocals.m4a", "empty/readme.md", "stray.wav", "a/sub/x.wav")
    a, b = FolderCorpus(tmp_path).tracks()
    assert (a.track_id, b.track_id) == ("a", "b")
    assert [stem.stem_id for stem in b.stems] == ["b/01_drums", "b/Bass"]
    assert [stem.labels for stem in b.stems] == [("drums",), ("bass",)]
    assert [stem.stem_id for stem in a.stems] == ["a/lead vocals"]
    unlabelled = [s.labels for t in FolderCorpus(tmp_path, labels="none").tracks() for s in t.stems]
    assert unlabelled == [(), (), ()]


def test_one_name_with_two_suffixes_gives_two_ids(tmp_path: Path) -> None:
    _touch(tmp_path, "a/x.wav", "a/x.flac")
    (track,) = FolderCorpus(tmp_path).tracks()
    assert [stem.stem_id for stem in track.stems] == ["a/x.flac", "a/x.wav"]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("02_Acoustic-Guitar 1", ("guitar", "acoustic guitar")),
        ("Lead Vocals 2", ("lead vocals",)),
        ("ElectricPiano", ("piano", "electric piano")),
        ("song_STEM_03", ()),
        ("03", ()),
        ("808 bass", ("808 bass",)),
    ],
)
def test_labels_are_cleaned_file_names(name: str, labels: tuple[str, ...]) -> None:
    assert labels_of_name(name, "song") == labels


def test_wrong_roots(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="holds no audio"):
        FolderCorpus(tmp_path)
    _touch(tmp_path, "a.wav")
    with pytest.raises(CorpusError, match="holds audio files itself"):
        FolderCorpus(tmp_path)
    with pytest.raises(CorpusError, match="is not a folder"):
        FolderCorpus(tmp_path / "a.wav")
    with pytest.raises(CorpusError, match="'names' or 'none'"):
        FolderCorpus(tmp_path, labels="guess")  # type: ignore[arg-type]
