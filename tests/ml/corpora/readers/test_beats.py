from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ml.audio.files import read_stem
from ml.beats.beat_sets import read_demo_beats
from ml.corpora.readers.beats import (
    SETS,
    BeatAnnotationError,
    beat_frames,
    read_beat_annotations,
    read_beat_file,
)
from ml.tracks import CorpusError

REFERENCE = os.environ.get("STEMS_REFERENCE", "")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two tracks a set, as published."""
    names = {
        "ballroom": ("ballroom_Media-105901", "ballroom_Albums-Fire-01"),
        "hainsworth": ("hainsworth_001", "hainsworth_222"),
        "smc": ("smc_001", "smc_217"),
        "harmonix": ("0001_12step", "0003_6foot7foot"),
        "gtzan": ("gtzan_blues_00000", "gtzan_rock_00099"),
    }
    for set_name, tracks in names.items():
        for fold, track in enumerate(tracks):
            write(tmp_path / set_name, track, "0.5\t1\n1.0\t2\n1.5\t1\n", fold)
    (tmp_path / "gtzan" / "8-folds.split").unlink()
    return tmp_path


def write(folder: Path, track: str, text: str, fold: int | None = None) -> Path:
    path = folder / "annotations" / "beats" / f"{track}.beats"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if fold is not None:
        with (folder / "8-folds.split").open("a") as file:
            file.write(f"{track}\t{fold}\n")
    return path


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize("set_name", SETS)
def test_every_set_is_read_with_its_folds(root: Path, set_name: str):
    found = read_beat_annotations(root, set_name)
    assert (found.name, len(found.tracks), found.problems) == (set_name, 2, ())
    assert found.counts == {
        "tracks": 2, "beats": 6, "missing_audio": 0, "missing_annotation": 0, "problems": 0
    }  # fmt: skip
    folds = {track.track_id: track.fold for track in found.tracks}
    assert set(folds.values()) == ({None} if set_name == "gtzan" else {0, 1})
    for track in found.tracks:
        np.testing.assert_array_equal(track.beats, [0.5, 1.0, 1.5])
        assert (track.audio, track.stems, track.split) == (None, (), None)


@pytest.mark.parametrize(
    ("set_name", "files"),
    [
        (
            "ballroom",
            ("BallroomData/Waltz/Media-105901.wav", "BallroomData/Tango/albums-fire-01.WAV"),
        ),
        ("ballroom", ("ballroom_Media-105901.flac", "x/ballroom_Albums-Fire-01.mp3")),
        ("hainsworth", ("audio/hains001.flac", "audio/hains222.flac")),
        ("smc", ("SMC_MIREX/SMC_MIREX_Audio/SMC_001.wav", "SMC_MIREX/SMC_MIREX_Audio/SMC_217.wav")),
        ("harmonix", ("0001_12step.mp3", "deep/er/0003_6foot7foot.m4a")),
        ("gtzan", ("genres/blues/blues.00000.wav", "genres/rock/rock.00099.au")),
        ("gtzan", ("gtzan_blues_00000.wav", "gtzan_rock_00099.wav")),
    ],
)
def test_audio_is_found_by_name(root: Path, tmp_path: Path, set_name: str, files: tuple[str, ...]):
    audio = touch(tmp_path / "audio", *files, "notes.txt", "._hidden.wav")
    found = read_beat_annotations(root, set_name, audio_root=audio)
    assert {track.audio for track in found.tracks} == {audio / name for name in files}
    assert (found.missing, found.unannotated, found.problems) == ((), (), ())
    for track in found.tracks:
        assert [stem.files for stem in track.stems] == [(track.audio,)]


def test_what_is_missing_is_listed_counted_and_left_out(root: Path, tmp_path: Path):
    audio = touch(tmp_path / "a", "SMC_001.wav", "SMC_002.wav", "jingle.wav", "copy/SMC_001.flac")
    found = read_beat_annotations(root, "smc", audio_root=audio)
    assert [track.track_id for track in found.tracks] == ["smc_001"]
    assert found.tracks[0].audio == audio / "SMC_001.wav"
    assert found.missing == ("smc_217",)
    assert found.unannotated == (audio / "SMC_002.wav", audio / "jingle.wav")
    assert len(found.problems) == 1
    assert "smc_001 has two recordings" in found.problems[0]
    assert found.counts["missing_audio"] == 1
    assert found.counts["missing_annotation"] == 2


def test_empty_annotations_are_left_out_and_said(root: Path, tmp_path: Path):
    write(root / "smc", "smc_100", "", 3)
    write(root / "smc", "smc_101", "-0.5\n\n", 4)
    audio = touch(tmp_path / "a", "SMC_001.wav", "SMC_100.wav", "SMC_217.wav")
    found = read_beat_annotations(root, "smc", audio_root=audio)
    assert [track.track_id for track in found.tracks] == ["smc_001", "smc_217"]
    assert [p.split("/")[-1] for p in found.problems] == [
        f"smc_{n}.beats holds no beat at or after 0 s; the track is left out" for n in (100, 101)
    ]
    assert found.unannotated == ()  # its annotation is known, if empty


def test_first_column_only_and_no_negative_times(tmp_path: Path):
    path = write(tmp_path, "x", "-0.019183673\t1\n0.0 2 9\n\n  0.557\t3\t7\r\n1.2e0\n")
    np.testing.assert_array_equal(read_beat_file(path), [0.0, 0.557, 1.2])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.5\t1\nbeat\t2\n", "line 2 begins with 'beat'"),
        ("0.5,1\n", "line 1 begins with '0.5,1'; expected a time in s"),
        ("0.5\n\nnan\n", "line 3 begins with 'nan'"),
        ("inf\n", "line 1 begins with 'inf'"),
        ("0.5\n1.0\n0.9\n", "line 3 is 0.9 s after 1.0 s; expected times that increase"),
        ("0.5\n\n0.5\n", "line 3 is 0.5 s after 0.5 s"),
        ("-0.1\n-0.2\n", "line 2 is -0.2 s after -0.1 s"),
    ],
)
def test_files_of_another_shape_name_the_line(tmp_path: Path, text: str, words: str):
    path = write(tmp_path, "x", text)
    with pytest.raises(BeatAnnotationError, match=words) as error:
        read_beat_file(path)
    assert str(path) in str(error.value)


def test_files_that_are_not_text(tmp_path: Path):
    path = write(tmp_path, "x", "")
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(BeatAnnotationError, match="is not text"):
        read_beat_file(path)
    with pytest.raises(BeatAnnotationError, match="cannot be read"):
        read_beat_file(path.parent / "missing.beats")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("smc_001\t5", r"line 3 lists track 'smc_001' again \(first in line 1\)"),
        ("smc_001\t0", "line 3 lists track 'smc_001' again"),
        ("smc_300\t8", "line 3 is .* expected a track and its fold, 0 to 7"),
        ("smc_300\t-1", "line 3 is"),
        ("smc_300", "line 3 is"),
        ("smc_300\t1\t2", "line 3 is"),
        ("smc_300\ttrain", "line 3 is"),
    ],
)
def test_wrong_fold_files(root: Path, line: str, words: str):
    with (root / "smc" / "8-folds.split").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(BeatAnnotationError, match=words):
        read_beat_annotations(root, "smc")


def test_tracks_without_a_fold_are_left_out_and_said(root: Path):
    write(root / "smc", "smc_100", "0.5\n")
    found = read_beat_annotations(root, "smc")
    assert [track.track_id for track in found.tracks] == ["smc_001", "smc_217"]
    assert "smc_100 is not in" in found.problems[0]
    (root / "smc" / "8-folds.split").unlink()
    with pytest.raises(BeatAnnotationError, match=r"8-folds\.split cannot be read"):
        read_beat_annotations(root, "smc")


def test_wrong_roots(root: Path, tmp_path: Path):
    with pytest.raises(BeatAnnotationError, match="set 'asap' is unknown; expected one of: ball"):
        read_beat_annotations(root, "asap")
    with pytest.raises(BeatAnnotationError, match="does not exist; expected ROOT/<set>/annot"):
        read_beat_annotations(root / "smc", "smc")
    with pytest.raises(CorpusError, match="nowhere is not a folder; give the folder that holds"):
        read_beat_annotations(root, "smc", audio_root=tmp_path / "nowhere")


def test_frames_are_the_nearest():
    assert beat_frames(np.array([0, 0.009, 0.011, 0.31, 1.0]), 50).tolist() == [0, 0, 1, 16, 50]


def test_demo_songs_have_the_beats_they_were_composed_on(shared_home: Path):
    found = read_demo_beats(shared_home / "corpora" / "demo")
    assert found.name == "demo"
    assert len(found.tracks) == found.counts["tracks"] == 12
    assert {track.split for track in found.tracks} == {"train", "valid", "test"}
    for track in found.tracks:
        assert (track.fold, track.audio) == (None, None)
        assert 0 <= track.beats[0] < track.beats[-1] < 8
        # The recording is the sum of the stems.
        assert len(track.stems) >= 3
    mix = np.sum([read_stem(stem) for stem in found.tracks[0].stems], axis=0)
    assert mix.shape == (8 * 16000,)


def test_a_set_is_a_corpus_of_recordings(root: Path, tmp_path: Path):
    from ml.corpora.readers.beats import BeatCorpus

    audio = tmp_path / "a"
    audio.mkdir()
    tone = np.sin(np.arange(8000) / 10) / 2
    soundfile.write(audio / "blues.00000.au", tone, 8000)
    (track,) = BeatCorpus(audio, set="gtzan", annotations=root).tracks()
    (stem,) = track.stems
    assert (track.track_id, track.split) == ("gtzan_blues_00000", "test")
    assert (stem.stem_id, stem.label) == ("gtzan_blues_00000/mix", "music")
    assert read_stem(stem).shape == (16000,)
    with pytest.raises(CorpusError, match="holds no recording of the 2 annotated tracks of smc"):
        BeatCorpus(audio, set="smc", annotations=root)


@pytest.mark.reference
@pytest.mark.skipif(not REFERENCE, reason="STEMS_REFERENCE names no folder of annotations")
def test_the_published_files():
    expected = {"ballroom": 685, "hainsworth": 222, "smc": 217, "harmonix": 911, "gtzan": 999}
    for set_name, count in expected.items():
        found = read_beat_annotations(Path(REFERENCE) / "beat_annotations", set_name)
        assert (len(found.tracks), found.problems) == (count, ())
        folds = {track.fold for track in found.tracks}
        assert folds == ({None} if set_name == "gtzan" else set(range(8)))
        assert min(track.beats[0] for track in found.tracks) >= 0
