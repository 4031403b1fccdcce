from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ml.artifacts import DataLayout
from ml.corpora.corpus import open_corpus
from ml.corpora.table import build_corpus_tracks, read_corpus_tracks
from ml.tracks import CorpusError

REEDS = "reeds (saxophone, clarinets, oboe, english horn, bagpipe)"
STEMS = [
    ("vocals", [("v1", "lead female singer", False), ("v2", "background vocals", True)]),
    ("guitar", [("g1", "clean electric guitar", "no"), ("g2", "clean electric guitar", "yes")]),
    ("other_keys", [("k1", "Mellotron (strings)", False)]),
    ("guitar", [("g3", "acoustic guitar", None), ("g4", "clean electric guitar", False)]),
    ("wind", [("w1", REEDS, False)]),
]


def _data(stems: list[tuple[str, list]], **values: Any) -> dict[str, Any]:
    return {
        "song": "Song",
        "artist": "Artist",
        "genre": "rock",
        **values,
        "stems": [
            {
                "stemName": name,
                "tracks": [
                    {"id": key, "trackType": kind, "extension": "wav", "has_bleed": bleed}
                    for key, kind, bleed in files
                ],
            }
            for name, files in stems
        ],
    }


def _write(root: Path, uuid: str, data: object, provider: str = "moisesdb_v0.1") -> Path:
    folder = root / provider / uuid
    folder.mkdir(parents=True)
    (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def test_each_file_is_a_stem_and_a_repeated_stem_name_is_one(tmp_path: Path) -> None:
    folder = _write(tmp_path, "uuid-b", _data(STEMS))
    _write(tmp_path, "uuid-a", _data(STEMS[:1], artist="", song=1984))
    (tmp_path / "moisesdb_v0.1" / "no-metadata").mkdir()
    a, b = open_corpus("moisesdb", tmp_path).tracks()
    assert (a.track_id, a.artist, a.title) == ("uuid-a", None, "1984")
    assert (b.track_id, b.artist, b.title, b.genre) == ("uuid-b", "Artist", "Song", "rock")
    assert (a.split, b.split) == (None, None)
    assert [(s.stem_id.removeprefix("uuid-b/"), s.labels, s.has_bleed) for s in b.stems] == [
        ("vocals/v1", ("vocals", "lead female singer"), False),
        ("vocals/v2", ("vocals", "background vocals"), True),
        ("guitar/g1", ("guitar", "clean electric guitar"), False),
        ("guitar/g2", ("guitar", "clean electric guitar"), True),
        ("other_keys/k1", ("other keys", "mellotron"), False),
        ("guitar/g3", ("guitar", "acoustic guitar"), None),
        ("guitar/g4", ("guitar", "clean electric guitar"), False),
        ("wind/w1", ("wind", "reeds"), False),
    ]
    assert b.stems[4].files == (folder / "other_keys" / "k1.wav",)


def test_by_type_the_files_of_a_category_and_type_are_one_stem(tmp_path: Path) -> None:
    _write(tmp_path, "u", _data(STEMS))
    (by_file,) = open_corpus("moisesdb", tmp_path, unit="file").tracks()
    (by_type,) = open_corpus("moisesdb", tmp_path, unit="type").tracks()
    assert [s.stem_id for s in by_type.stems] == [
        "u/vocals/lead female singer",
        "u/vocals/background vocals",
        "u/guitar/clean electric guitar",
        "u/other_keys/mellotron",
        "u/guitar/acoustic guitar",
        "u/wind/reeds",
    ]
    clean = by_type.stems[2]
    assert [path.stem for path in clean.files] == ["g1", "g2", "g4"]
    assert (clean.has_bleed, by_type.stems[4].has_bleed) == (True, None)
    files = [path for stem in by_type.stems for path in stem.files]
    assert sorted(files) == sorted(path for stem in by_file.stems for path in stem.files)


def test_a_file_listed_twice_counts_once(tmp_path: Path) -> None:
    _write(tmp_path, "u", _data([STEMS[0], STEMS[0]]))
    (track,) = open_corpus("moisesdb", tmp_path).tracks()
    assert [stem.stem_id for stem in track.stems] == ["u/vocals/v1", "u/vocals/v2"]


def test_unequal_lengths_a_mono_file_and_a_missing_one_go_through_the_scan(
    tmp_path: Path, write_noise
) -> None:
    folder = _write(tmp_path / "x", "u", _data(STEMS[:2] + STEMS[3:4]))
    write_noise(folder / "vocals/v1.wav", duration_s=0.5, rate_hz=44100, channels=2)
    write_noise(folder / "vocals/v2.wav", duration_s=0.9, rate_hz=44100)
    write_noise(folder / "guitar/g1.wav", duration_s=0.4, rate_hz=44100, channels=2)
    write_noise(folder / "guitar/g2.wav", duration_s=0.7, rate_hz=44100, channels=2)
    write_noise(folder / "guitar/g4.wav", duration_s=0.6, rate_hz=44100, channels=2)
    layout = DataLayout(home=tmp_path / "home")
    build_corpus_tracks("files", open_corpus("moisesdb", tmp_path / "x"), layout)
    rows = read_corpus_tracks(layout, "files")
    found = dict(zip(rows["stem_id"], rows["duration_s"], strict=True))
    assert found.pop("u/guitar/g3") is None
    assert list(found.values()) == pytest.approx([0.5, 0.9, 0.4, 0.7, 0.6])
    assert rows["channels"].to_list() == [2, 1, 2, 2, None, 2]
    assert rows["has_bleed"].to_list() == [False, True, False, True, None, False]
    (problem,) = rows["problem"].drop_nulls()
    assert "g3.wav does not exist" in problem
    build_corpus_tracks("types", open_corpus("moisesdb", tmp_path / "x", unit="type"), layout)
    rows = read_corpus_tracks(layout, "types")
    found = dict(zip(rows["stem_id"], rows["duration_s"], strict=True))
    assert found["u/guitar/clean electric guitar"] == pytest.approx(0.7)  # its longest file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"song": ', r"data\.json is not JSON"),
        ("[]", r"data\.json is list \[\], expected a mapping"),
        ("{}", r"data\.json: stems is missing, expected a list"),
        ('{"stems": {"a": 1}}', r"data\.json: stems is dict .*, expected a list"),
        ('{"stems": ["vocals"]}', r"data\.json: stems is str 'vocals', expected a mapping"),
        ('{"stems": [{"stemName": "bass", "tracks": "x"}]}', r"tracks of stem 'bass' is str"),
        ('{"stems": [{"stemName": "bass", "tracks": [{"id": "x"}]}]}', "expected a stemName, an"),
        ("\xff", "is not UTF-8"),
    ],
)
def test_broken_metadata_are_named(tmp_path: Path, text: str, message: str) -> None:
    folder = _write(tmp_path, "u", {})
    (folder / "data.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CorpusError, match=message) as caught:
        list(open_corpus("moisesdb", tmp_path).tracks())
    assert str(folder / "data.json") in str(caught.value)


def test_wrong_roots_and_units(tmp_path: Path) -> None:
    (tmp_path / "provider").mkdir()
    with pytest.raises(CorpusError, match=r"looked for <provider>/.*, found provider/ \(empty\)"):
        open_corpus("moisesdb", tmp_path)
    _write(tmp_path, "u", _data(STEMS))
    with pytest.raises(CorpusError, match=rf"found u/; {tmp_path} does: give that as the root"):
        open_corpus("moisesdb", tmp_path / "moisesdb_v0.1")
    with pytest.raises(CorpusError, match=r"unit = 'stem' for .*; expected 'file' or 'type'"):
        open_corpus("moisesdb", tmp_path, unit="stem")
