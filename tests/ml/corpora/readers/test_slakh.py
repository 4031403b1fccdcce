from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ml.artifacts import DataLayout
from ml.corpora.corpus import open_corpus
from ml.corpora.table import build_corpus_tracks, read_corpus_tracks
from ml.tracks import CorpusError, Track

STEMS: dict[str, dict[str, Any]] = {
    "S00": {"inst_class": "Guitar", "midi_program_name": "Distortion Guitar", "program_num": 30},
    "S01": {
        "inst_class": "Strings (continued)",
        "midi_program_name": "String Ensemble 1",
        "program_num": 48,
        "audio_rendered": False,
    },
    "S02": {"inst_class": "Drums", "midi_program_name": "Drums", "program_num": 128},
    "S03": {"inst_class": "Drums", "program_num": 0, "is_drum": True},
    "S04": {"inst_class": "Bass", "midi_program_name": "Slap Bass 2", "program_num": 37},
}


def _write_song(folder: Path, write, suffix: str = ".flac", missing: str = "S04") -> Path:
    for name in STEMS:
        if name != missing:
            write(folder / "stems" / f"{name}{suffix}")
    write(folder / f"mix{suffix}")
    common = {"audio_rendered": True, "is_drum": False, "plugin_name": "x.nkm"}
    stems = {name: common | stem for name, stem in STEMS.items()}
    text = yaml.safe_dump({"UUID": "1e5", "audio_dir": "stems", "stems": stems})
    (folder / "metadata.yaml").write_text(text)
    return folder


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _splits(tracks: list[Track]) -> list[tuple[str, str | None]]:
    return [(track.track_id, track.split) for track in tracks]


def test_a_stem_is_there_if_its_file_is_whatever_the_metadata_say(tmp_path: Path) -> None:
    folder = _write_song(tmp_path / "train" / "Track00001", _touch)
    _touch(folder / "stems" / "S09.flac")
    _touch(folder / "stems" / "S00.wav")
    _touch(folder / "stems" / "band" / "drums.wav")
    (track,) = open_corpus("slakh2100", tmp_path).tracks()
    assert [(s.stem_id, s.labels) for s in track.stems] == [
        ("Track00001/S00", ("guitar", "distortion guitar")),
        ("Track00001/S01", ("bowed strings", "string ensemble")),
        ("Track00001/S02", ("drums", "drum kit")),
        ("Track00001/S03", ("drums", "drum kit")),
        ("Track00001/S09", ()),
    ]
    assert track.stems[0].files == (folder / "stems" / "S00.flac",)
    assert (track.artist, track.title, track.stems[0].has_bleed) == (None, None, False)


def test_splits_are_folders_and_omitted_is_off_by_default(tmp_path: Path) -> None:
    folders = ("train/Track00002", "train/Track00001", "validation/Track00003")
    for name in (*folders, "test/Track00004", "omitted/Track00005"):
        _write_song(tmp_path / name, _touch)
    _touch(tmp_path / "train" / "Track00009" / "mix.flac")  # without stems
    found = _splits(list(open_corpus("slakh2100", tmp_path).tracks()))
    assert found == [
        ("Track00001", "train"),
        ("Track00002", "train"),
        ("Track00003", "valid"),
        ("Track00004", "test"),
    ]
    with_omitted = _splits(list(open_corpus("slakh2100", tmp_path, omitted=True).tracks()))
    assert with_omitted == [*found, ("Track00005", None)]


def test_babyslakh_has_no_folders_of_splits(tmp_path: Path) -> None:
    _write_song(tmp_path / "Track00001", _touch, suffix=".wav")
    (track,) = open_corpus("slakh2100", tmp_path).tracks()
    assert (track.track_id, track.split) == ("Track00001", None)
    assert {stem.files[0].suffix for stem in track.stems} == {".wav"}


@pytest.mark.parametrize(("suffix", "rate_hz"), [(".flac", 44100), (".wav", 16000)])
def test_both_go_through_the_scan(tmp_path: Path, write_noise, suffix: str, rate_hz: int) -> None:
    folder = "test/Track00001" if suffix == ".flac" else "Track00001"

    def write(path: Path) -> None:
        write_noise(path, rate_hz=rate_hz)

    _write_song(tmp_path / "x" / folder, write, suffix=suffix)
    layout = DataLayout(home=tmp_path / "home")
    build_corpus_tracks("slakh", open_corpus("slakh2100", tmp_path / "x"), layout)
    rows = read_corpus_tracks(layout, "slakh")
    assert rows["stem_id"].to_list() == [f"Track00001/S0{n}" for n in range(4)]
    assert rows["problem"].to_list() == [None] * 4
    assert rows["rate_hz"].to_list() == [rate_hz] * 4
    assert set(rows["split"].to_list()) == ({"test"} if suffix == ".flac" else {None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"metadata\.yaml does not exist"),
        ("", r"metadata\.yaml is empty, expected a mapping"),
        ("UUID: x", r"metadata\.yaml: stems is missing"),
        ("stems:\n\t- x", r"metadata\.yaml is not YAML"),
        ("stems: x", "stems is str 'x', expected a mapping"),
        ("stems: {S00: x}", "stems: S00 is str 'x'"),
    ],
)
def test_broken_metadata_are_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = _write_song(tmp_path / "Track00001", _touch) / "metadata.yaml"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(CorpusError, match=message) as caught:
        list(open_corpus("slakh2100", tmp_path).tracks())
    assert str(path) in str(caught.value)


def test_wrong_roots_and_options(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is empty; looked for TrackNNNNN/stems/S00"):
        open_corpus("slakh2100", tmp_path)
    _write_song(tmp_path / "slakh" / "train" / "Track00001", _touch)
    with pytest.raises(CorpusError, match=r"found slakh/; \S+slakh does: give that"):
        open_corpus("slakh2100", tmp_path)
    with pytest.raises(CorpusError, match=r"train is the folder of one split: .* give \S+slakh$"):
        open_corpus("slakh2100", tmp_path / "slakh" / "train")
    with pytest.raises(CorpusError, match=r"omitted = 'no' for .*; expected true or false"):
        open_corpus("slakh2100", tmp_path / "slakh", omitted="no")
