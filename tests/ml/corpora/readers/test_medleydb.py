from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ml.artifacts import DataLayout
from ml.corpora.corpus import open_corpus
from ml.corpora.table import build_corpus_tracks, read_corpus_tracks
from ml.tracks import CorpusError

INSTRUMENTS = ["drum set", ["violin", "viola"], "Main System", "Unlabeled", "electric bass"]


def _metadata(track_id: str, instruments: list[Any], **values: Any) -> str:
    stems = {
        f"S{place:02}": {
            "component": "",
            "filename": f"{track_id}_STEM_{place:02}.wav",
            "instrument": instrument,
            "raw": {"R01": {"filename": "x.wav", "instrument": "gong"}},
        }
        for place, instrument in enumerate(instruments, start=1)
    }
    return yaml.safe_dump({"artist": "An Artist", "has_bleed": "no", "stems": stems, **values})


def _write_song(root: Path, track_id: str, write, instruments: list[Any]) -> Path:
    folder = root / track_id
    for place in range(1, len(instruments) + 1):
        write(folder / f"{track_id}_STEMS" / f"{track_id}_STEM_{place:02}.wav")
    write(folder / f"{track_id}_MIX.wav")
    write(folder / f"{track_id}_RAW" / f"{track_id}_RAW_01_01.wav")
    return folder


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_stems_with_the_instruments_of_the_metadata_beside_them(tmp_path: Path) -> None:
    folder = _write_song(tmp_path / "Audio", "AnArtist_1984", _touch, INSTRUMENTS)
    text = _metadata("AnArtist_1984", INSTRUMENTS, title=1984, has_bleed="yes") + "genre: No\n"
    (folder / "AnArtist_1984_METADATA.yaml").write_text(text)
    (track,) = open_corpus("medleydb", tmp_path).tracks()
    assert (track.track_id, track.split) == ("AnArtist_1984", None)
    assert (track.artist, track.title, track.genre) == (
        "An Artist",
        "1984",
        "No",
    )  # text, not false
    assert [(s.stem_id, s.labels, s.has_bleed) for s in track.stems] == [
        ("AnArtist_1984/STEM_01", ("drums", "drum kit"), True),
        ("AnArtist_1984/STEM_02", ("bowed strings", "violin and viola"), True),
        ("AnArtist_1984/STEM_03", (), True),
        ("AnArtist_1984/STEM_04", (), True),
        ("AnArtist_1984/STEM_05", ("bass", "bass guitar"), True),
    ]
    assert track.stems[0].files == (folder / "AnArtist_1984_STEMS" / "AnArtist_1984_STEM_01.wav",)


@pytest.mark.parametrize("audio", ["", "Audio", "V1", "V2"])
@pytest.mark.parametrize("place", ["Metadata", "medleydb/data/Metadata", "../Metadata"])
def test_metadata_are_found_in_the_usual_places(tmp_path: Path, audio: str, place: str) -> None:
    root = tmp_path / "MedleyDB"
    for track_id in ("B_B", "A_A"):
        _write_song(root / audio, track_id, _touch, ["piano"])
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / f"{track_id}_METADATA.yaml").write_text(_metadata(track_id, ["piano"]))
    tracks = list(open_corpus("medleydb", root).tracks())
    assert [track.track_id for track in tracks] == ["A_A", "B_B"]
    assert {stem.labels for track in tracks for stem in track.stems} == {("piano",)}


def test_metadata_elsewhere_are_named_by_an_option(tmp_path: Path) -> None:
    _write_song(tmp_path / "audio" / "V2", "A_A", _touch, ["piano"])
    with pytest.raises(CorpusError, match=r"no A_A_METADATA\.yaml: looked in .*metadata=FOLDER"):
        list(open_corpus("medleydb", tmp_path / "audio").tracks())
    clone = tmp_path / "clone" / "medleydb" / "data" / "Metadata"
    clone.mkdir(parents=True)
    with pytest.raises(CorpusError, match=r"metadata = .*clone holds no \*_METADATA\.yaml"):
        open_corpus("medleydb", tmp_path / "audio", metadata=tmp_path / "clone")
    (clone / "A_A_METADATA.yaml").write_text(_metadata("A_A", ["flute"]))
    for given in (clone, str(tmp_path / "clone"), "../clone"):
        (track,) = open_corpus("medleydb", tmp_path / "audio", metadata=given).tracks()
        assert track.stems[0].labels == ("wind", "flute")


def test_both_versions_go_through_the_scan_with_a_missing_and_an_unlisted_file(
    tmp_path: Path, write_noise
) -> None:
    root = tmp_path / "x"
    _write_song(root / "V1", "A_A", write_noise, ["piano", "flute"])
    _write_song(root / "V2", "B_B", write_noise, ["piano", "flute"])
    (root / "V1/A_A/A_A_STEMS/A_A_STEM_02.wav").unlink()
    (root / "Metadata").mkdir()
    (root / "Metadata/A_A_METADATA.yaml").write_text(_metadata("A_A", ["piano", "flute"]))
    (root / "Metadata/B_B_METADATA.yaml").write_text(_metadata("B_B", ["piano"]))
    layout = DataLayout(home=tmp_path / "home")
    build_corpus_tracks("medley", open_corpus("medleydb", root), layout)
    rows = read_corpus_tracks(layout, "medley")
    assert rows["stem_id"].to_list() == [
        f"{t}/STEM_{n}" for t in ("A_A", "B_B") for n in (("01", "02"))
    ]
    assert rows["labels"].to_list() == [["piano"], ["wind", "flute"], ["piano"], []]
    assert "A_A_STEM_02.wav does not exist" in rows["problem"][1]
    assert rows["problem"].to_list()[2:] == [None, None]
    assert rows["has_bleed"].to_list() == [False] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stems: [", "is not YAML"),
        ("- a", "expected a mapping"),
        ("stems: piano", "stems is str 'piano', expected a mapping"),
        ("stems: {S01: piano}", "stems: S01 is str 'piano'"),
    ],
)
def test_broken_metadata_are_named(tmp_path: Path, text: str, message: str) -> None:
    folder = _write_song(tmp_path, "A_A", _touch, ["piano"])
    (folder / "A_A_METADATA.yaml").write_text(text)
    with pytest.raises(CorpusError, match=message) as caught:
        list(open_corpus("medleydb", tmp_path).tracks())
    assert str(folder / "A_A_METADATA.yaml") in str(caught.value)


def test_wrong_roots(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is empty; looked for <ID>/<ID>_STEMS"):
        open_corpus("medleydb", tmp_path)
    _write_song(tmp_path / "MedleyDB/Audio", "A_A", _touch, ["piano"])
    with pytest.raises(CorpusError, match=r"found MedleyDB/; \S+MedleyDB does: give that"):
        open_corpus("medleydb", tmp_path)
    with pytest.raises(CorpusError, match=r"Audio does: give that"):
        open_corpus("medleydb", tmp_path / "MedleyDB/Audio/A_A")
