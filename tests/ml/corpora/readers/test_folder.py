from __future__ import annotations

import struct
import unicodedata
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
    assert FolderCorpus(tmp_path).notes() == [
        "1 left out, named like a mix, which is the sum of the stems: b/mixture.wav",
        "1 left out, with audio one folder deeper than stems lie: move it up, or list it in a CSV: "
        "a/sub",
        "1 left out, without audio: empty",
        "1 left out, of audio outside of any track's folder: stray.wav",
    ]
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
        ("Lead Vocals 2", ("vocals", "lead vocals")),
        ("ElectricPiano", ("piano", "electric piano")),
        ("song_STEM_03", ()),
        ("03", ()),
        ("808 bass", ("bass", "808 bass")),
        ("Hurdy-Gurdy 2", ("hurdy gurdy",)),
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


@pytest.mark.parametrize(
    ("name", "is_mix"),
    [
        *((name, True) for name in ("mixture", "Mix", "MASTER", "{t} Master", "Full Mix", "2-Mix")),
        *((name, True) for name in ("Mix 24bit 48k", "Stereo Out", "REF Mix", "Mix_Final_v3")),
        *((name, True) for name in ("{t} (Reference)", "{t}_MIX", "Rough Mix 2", "Mastered")),
        *((name, False) for name in ("Drum Mix", "Vox Master", "Mixed Choir", "Refrain", "Out")),
    ],
)
def test_what_is_named_like_a_mix_is_left_out(tmp_path: Path, name: str, is_mix: bool) -> None:
    _touch(tmp_path, "Song 1/bass.wav", f"Song 1/{name.format(t='Song 1')}.wav")
    (track,) = FolderCorpus(tmp_path).tracks()
    assert len(track.stems) == 1 + (not is_mix)
    assert ("named like a mix" in " ".join(FolderCorpus(tmp_path).notes())) is is_mix


def test_accents_are_one_name_in_either_form(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        names = [unicodedata.normalize(form, f"Häuser/{stem}") for stem in ("Bläser", "ギター")]
        _touch(tmp_path / form, *(f"{name}.wav" for name in names))
    one, two = (list(FolderCorpus(tmp_path / form).tracks()) for form in ("NFC", "NFD"))
    assert one[0].track_id == two[0].track_id == "Häuser"
    assert [(s.stem_id, s.labels) for s in one[0].stems] == [
        (s.stem_id, s.labels) for s in two[0].stems
    ]


def test_songs_that_are_not_read_are_named(tmp_path: Path) -> None:
    _touch(tmp_path, "Song B/Stems/bass.wav", "Song C/stems.zip")
    with pytest.raises(CorpusError, match=r"one folder deeper .*Song B/Stems"):
        FolderCorpus(tmp_path)
    _touch(tmp_path, "Song A/bass.wav", "Song A/T1.wav", "Song A/Qwert.wav")
    notes = "\n".join(FolderCorpus(tmp_path).notes())
    for said in ("Song B/Stems", "unpack it: Song C", "T1 (drums > toms)", "known: Qwert"):
        assert said in notes


def _write_placed(path: Path, place_s: float | None) -> None:
    """A second of a 16-bit WAV whose bext chunk says where it lies in its session."""
    body = bytes(338) + struct.pack("<Q", round(8000 * (place_s or 0))) + bytes(256)
    bext = b"" if place_s is None else b"bext" + struct.pack("<I", len(body)) + body
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    content = b"WAVE" + bext + fmt + b"data" + struct.pack("<I", 16000) + bytes(16000)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(content)) + content)


@pytest.mark.parametrize(
    ("places", "starts", "is_said"),
    [
        ((3600.0, 3618.0), [0.0, 18.0], False),
        ((3600.0, 3600.0), [0.0, 0.0], False),
        ((3600.0, None), [0.0, 0.0], False),
        ((None, None), [0.0, 0.0], False),
        ((60.0, 80000.0), [0.0, 0.0], True),
    ],
)
def test_files_of_a_session_start_where_they_say(
    tmp_path: Path, places: tuple[float | None, ...], starts: list[float], is_said: bool
) -> None:
    for name, place_s in zip(("bass", "drums"), places, strict=True):
        _write_placed(tmp_path / "song" / f"{name}.wav", place_s)
    corpus = FolderCorpus(tmp_path)
    (track,) = corpus.tracks()
    assert [stem.start_s for stem in track.stems] == starts
    assert ("start apart" in " ".join(corpus.notes())) is is_said
