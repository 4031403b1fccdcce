from __future__ import annotations

import os
import unicodedata
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from av.container import OutputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from ml.artifacts import DataLayout
from ml.audio.files import read_stem
from ml.corpora.corpus import open_corpus
from ml.corpora.readers.musdb18 import VALIDATION_TRACKS
from ml.corpora.table import build_corpus_tracks, read_corpus_tracks
from ml.tracks import CorpusError

RATE_HZ = 44100
NAMES = ("mixture", "drums", "bass", "other", "vocals")
REFERENCE = os.environ.get("STEMS_REFERENCE", "")


def _waveforms() -> dict[str, np.ndarray]:
    """A tone with a click each, at a pitch and a place of its own; the mixture is their sum."""
    time_s = np.arange(round(RATE_HZ * 0.8)) / RATE_HZ
    found = {}
    for place, name in enumerate(NAMES[1:], start=1):
        found[name] = 0.1 * np.sin(2 * np.pi * 220 * place * time_s)
        found[name][place * 6000 : place * 6000 + 20] += 0.5
    return {name: found.get(name, sum(found.values())).astype(np.float32) for name in NAMES}


def _write_stem_file(path: Path, waveforms: dict[str, np.ndarray], *, video_first: bool) -> None:
    """Five stereo AAC streams and a cover picture, as MUSDB18 has them, or a video before them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        if video_first:
            _add_picture(container)
        streams = [container.add_stream("aac", rate=RATE_HZ, layout="stereo") for _ in waveforms]
        if not video_first:
            _add_picture(container).disposition = Disposition.attached_pic
        for stream, waveform in zip(streams, waveforms.values(), strict=True):
            for start in range(0, waveform.size, 1024):
                block = np.tile(waveform[start : start + 1024], (2, 1))  # (channel, samples)
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
                frame.sample_rate, frame.time_base = RATE_HZ, Fraction(1, RATE_HZ)
                frame.pts = start
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        picture = container.streams.video[0]
        image = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        image.pts, image.time_base = 0, Fraction(1, 1)
        container.mux(picture.encode(image))
        container.mux(picture.encode(None))


def _add_picture(container: OutputContainer) -> VideoStream:
    picture = container.add_stream("png", rate=1)
    picture.width = picture.height = 16
    picture.pix_fmt = "rgb24"
    return picture


def _write_wavs(folder: Path, waveforms: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for name, waveform in waveforms.items():
        stereo = np.stack([waveform, waveform], axis=1)  # (samples, channel)
        soundfile.write(folder / f"{name}.wav", stereo, RATE_HZ, subtype="FLOAT")


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_both_layouts_give_the_same_tracks_but_for_the_files(tmp_path: Path) -> None:
    songs = {"train": ["B - Two", "A - One - More", "Leaf - Summerghost"], "test": ["C"]}
    for split, names in songs.items():
        for name in names:
            _touch(tmp_path, f"mp4/{split}/{name}.stem.mp4", f"mp4/{split}/._{name}.stem.mp4")
            _touch(tmp_path, *(f"hq/{split}/{name}/{stem}.wav" for stem in NAMES))
    mp4 = list(open_corpus("musdb18", tmp_path / "mp4").tracks())
    hq = list(open_corpus("musdb18", tmp_path / "hq").tracks())
    for tracks in (mp4, hq):
        assert [(t.track_id, t.split, t.artist, t.title) for t in tracks] == [
            ("A - One - More", "train", "A", "One - More"),
            ("B - Two", "train", "B", "Two"),
            ("Leaf - Summerghost", "valid", "Leaf", "Summerghost"),
            ("C", "test", None, "C"),
        ]
        drums, bass, other, vocals = tracks[0].stems
        assert [s.stem_id for s in tracks[0].stems] == [f"A - One - More/{s}" for s in NAMES[1:]]
        assert (drums.labels, bass.labels, vocals.labels) == (("drums",), ("bass",), ("vocals",))
        assert (other.labels, other.label) == ((), "music")
    assert [stem.stream for stem in mp4[0].stems] == [1, 2, 3, 4]  # never 0, the mixture
    assert {stem.files[0].name for stem in mp4[0].stems} == {"A - One - More.stem.mp4"}
    assert [stem.stream for stem in hq[0].stems] == [None] * 4
    assert [stem.files[0].name for stem in hq[0].stems] == [f"{name}.wav" for name in NAMES[1:]]


def test_the_14_validation_tracks_are_only_those_of_the_training_folder(tmp_path: Path) -> None:
    assert len(VALIDATION_TRACKS) == 14
    assert all(" - " in name for name in VALIDATION_TRACKS)
    moved, *trained = sorted(VALIDATION_TRACKS)
    _touch(tmp_path, *(f"train/{name}.stem.mp4" for name in (*trained, "X - Y")))
    _touch(tmp_path, "test/Triviul - Alright.stem.mp4", f"test/{moved}.stem.mp4")
    splits = {track.track_id: track.split for track in open_corpus("musdb18", tmp_path).tracks()}
    assert {name for name, split in splits.items() if split == "valid"} == set(trained)
    assert {name for name, split in splits.items() if split == "train"} == {"X - Y"}
    assert splits[moved] == splits["Triviul - Alright"] == "test"


def test_a_song_in_both_layouts_is_one_track_read_from_wav(tmp_path: Path) -> None:
    _touch(tmp_path, "test/A - B.stem.mp4", "test/A - B/bass.wav", "test/A - B/notes.txt")
    (track,) = open_corpus("musdb18", tmp_path).tracks()
    assert [stem.files[0].suffix for stem in track.stems] == [".wav"] * 4


def test_ids_do_not_depend_on_how_the_disk_writes_accents(tmp_path: Path) -> None:
    name = "Émile - Été"
    ids = []
    for form in ("NFC", "NFD"):
        root = _touch(tmp_path / form, f"test/{unicodedata.normalize(form, name)}.stem.mp4")
        (track,) = open_corpus("musdb18", root).tracks()
        assert track.stems[0].files[0].is_file()
        ids.append((track.track_id, track.artist, *(stem.stem_id for stem in track.stems)))
    assert ids[0] == ids[1]


@pytest.mark.parametrize("video_first", [False, True])
def test_a_stream_is_its_stem_and_lines_up_with_its_wav_twin(
    tmp_path: Path, video_first: bool
) -> None:
    waveforms = _waveforms()
    path = tmp_path / "mp4" / "test" / "A - B.stem.mp4"
    _write_stem_file(path, waveforms, video_first=video_first)
    _write_wavs(tmp_path / "hq" / "test" / "A - B", waveforms)
    (mp4,) = open_corpus("musdb18", tmp_path / "mp4").tracks()
    (hq,) = open_corpus("musdb18", tmp_path / "hq").tracks()
    for stem, twin in zip(mp4.stems, hq.stems, strict=True):
        found, expected = read_stem(stem, RATE_HZ), read_stem(twin, RATE_HZ)
        np.testing.assert_array_equal(expected, waveforms[stem.stem_id.split("/")[1]])
        assert found.size == expected.size
        assert np.corrcoef(found, expected)[0, 1] > 0.98, stem.stem_id
        lags = [np.dot(np.roll(found, -lag), expected) for lag in range(-50, 51)]
        assert int(np.argmax(lags)) - 50 == 0, stem.stem_id


def test_both_layouts_go_through_the_scan(tmp_path: Path) -> None:
    waveforms = _waveforms()
    _write_stem_file(tmp_path / "x/train/A - B.stem.mp4", waveforms, video_first=False)
    _write_wavs(tmp_path / "x/train/C - D", waveforms)
    (tmp_path / "x/train/C - D/vocals.wav").unlink()
    layout = DataLayout(home=tmp_path / "home")
    build_corpus_tracks("musdb", open_corpus("musdb18", tmp_path / "x"), layout)
    rows = read_corpus_tracks(layout, "musdb")
    assert rows["stream"].to_list() == [1, 2, 3, 4] + [None] * 4
    assert rows["duration_s"].to_list()[:7] == pytest.approx([0.8] * 7)
    assert rows["category"].to_list() == ["drums", "bass", None, "vocals"] * 2
    assert len(set(rows["content_hash"].drop_nulls().to_list())) == 7
    assert [bool(problem) for problem in rows["problem"]] == [False] * 7 + [True]
    assert "vocals.wav does not exist" in rows["problem"][7]


@pytest.mark.parametrize(
    ("files", "root", "message"),
    [
        ([], "", r"is empty; looked for train/ and test/"),
        (["a.txt"], "", r"holds no musdb18 corpus: looked for train/ .*, found a\.txt"),
        (["train/A - B/mixture.wav"], "", r"found train/$"),
        (["train/A - B.stem.mp4"], "train", r"found A - B\.stem\.mp4; .* does: give that as"),
        (["musdb18/train/A - B.stem.mp4"], "", r"found musdb18/; \S+musdb18 does: give that"),
        (["p/uuid/data.json"], "", r"it looks like a corpus of kind moisesdb"),
        (["train/Track00001/stems/S00.flac"], "", r"it looks like a corpus of kind slakh2100"),
        (["Audio/A_B/A_B_STEMS/A_B_STEM_01.wav"], "", r"it looks like a corpus of kind medleydb"),
    ],
)
def test_wrong_roots_say_what_is_there_and_what_would_fit(
    tmp_path: Path, files: list[str], root: str, message: str
) -> None:
    place = tmp_path / "given"
    place.mkdir()
    _touch(place, *files)
    with pytest.raises(CorpusError, match=message) as caught:
        open_corpus("musdb18", place / root)
    assert str(place / root) in str(caught.value)


def test_a_file_is_no_root(tmp_path: Path) -> None:
    (tmp_path / "a.zip").touch()
    with pytest.raises(CorpusError, match=r"a\.zip is a file; expected a folder: looked for"):
        open_corpus("musdb18", tmp_path / "a.zip")


@pytest.mark.reference
@pytest.mark.skipif(not REFERENCE, reason="STEMS_REFERENCE names no folder of multitracks")
def test_the_real_sample_is_a_track_of_four_stems(tmp_path: Path) -> None:
    corpus = open_corpus("musdb18", Path(REFERENCE) / "corpora" / "musdb18_sample")
    (track,) = corpus.tracks()
    assert (track.artist, track.title, track.split) == ("The Easton Ellises", "Falcon 69", "test")
    layout = DataLayout(home=tmp_path)
    build_corpus_tracks("sample", corpus, layout)
    rows = read_corpus_tracks(layout, "sample")
    assert rows["problem"].to_list() == [None] * 4
    assert rows["rate_hz"].to_list() == [44100] * 4
    # 6 s of stereo AAC in each; the container's clock counts whole frames of 1024 samples.
    assert rows["duration_s"].to_list() == pytest.approx([6.06] * 4, abs=0.05)
