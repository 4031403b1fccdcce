from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from ml.corpora.corpus import open_corpus
from ml.corpora.demo.build import DemoCorpus, build_demo_corpora, write_wav
from ml.corpora.demo.songs import DemoConfig, make_song, render_dry
from ml.tracks import CorpusError

CONFIG = DemoConfig(train_songs=3, heldout_songs=2, train_s=8, heldout_s=8)
NAMES = ("demo", "demo-plain", "demo-swapped")


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def samples(path: Path) -> np.ndarray:
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    build_demo_corpora(folder, CONFIG, workers=1)
    return folder


def test_the_bytes_do_not_depend_on_the_number_of_workers(built, tmp_path):
    artifacts = build_demo_corpora(tmp_path, CONFIG, workers=2)
    assert contents(tmp_path) == contents(built)
    assert set(artifacts) == set(NAMES)
    assert artifacts["demo"].summary["songs"] == 5
    assert not artifacts["demo"].reused


def test_another_seed_gives_other_songs_and_leaves_nothing_of_the_old(built, tmp_path):
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    other = DemoConfig(seed=1, train_songs=2, heldout_songs=2, train_s=8, heldout_s=8)
    build_demo_corpora(tmp_path, other)
    now, before = contents(tmp_path), contents(built)
    assert not any(now[name] == before.get(name) for name in now)
    assert not any("train-0002" in name for name in now)


def test_a_finished_build_is_reused(built):
    before = {p: p.stat().st_mtime_ns for p in built.rglob("*") if p.is_file()}
    artifacts = build_demo_corpora(built, CONFIG)
    assert all(artifact.reused for artifact in artifacts.values())
    assert before == {p: p.stat().st_mtime_ns for p in built.rglob("*") if p.is_file()}


def test_an_interrupted_build_continues_with_what_is_missing(built, tmp_path):
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    (tmp_path / "demo" / "manifest.json").unlink()
    songs = tmp_path / "demo" / "songs"
    shutil.rmtree(songs / "train-0001")
    (songs / ".train-0001.x.tmp").mkdir()  # what a killed build leaves
    kept = (songs / "train-0000" / "song.json").stat().st_mtime_ns
    with pytest.raises(CorpusError, match="stems demo"):
        DemoCorpus(tmp_path / "demo")
    build_demo_corpora(tmp_path, CONFIG)
    assert contents(tmp_path) == contents(built)
    assert (songs / "train-0000" / "song.json").stat().st_mtime_ns == kept
    assert not (songs / ".train-0001.x.tmp").exists()


def test_the_three_corpora_hold_the_same_songs_in_different_productions(built):
    song = make_song(CONFIG, "heldout", 1)
    dry = render_dry(CONFIG, song, is_one_timbre=False)
    described = json.loads((built / "demo/songs/heldout-001/song.json").read_text())
    for entry, stem in zip(described["stems"], dry, strict=True):
        own, plain, swapped = (
            samples(built / name / "songs" / "heldout-001" / entry["file"]) for name in NAMES
        )
        assert np.array_equal(plain, np.rint(stem * 32767).astype(np.int16))
        assert not np.array_equal(own, plain)
        assert not np.array_equal(own, swapped)
        assert not np.array_equal(plain, swapped)
        assert len(own) == 8 * 16000


def test_nothing_but_what_is_played_ties_the_stems_of_a_training_song(built):
    """Not a character, not a tuning; held-out songs have both, as records do."""
    song, record = (
        json.loads((built / "demo" / "songs" / name / "song.json").read_text())
        for name in ("train-0000", "heldout-000")
    )
    assert "train-0000" not in {stem["character_of"] for stem in song["stems"]}
    assert song["tuning_cents"] is None
    assert {stem["character_of"] for stem in record["stems"]} == {"heldout-000"}
    assert isinstance(record["tuning_cents"], float)


def test_song_json_says_what_the_song_is(built):
    corpus = DemoCorpus(built / "demo")
    song = corpus.song("heldout-001")
    wanted = {"tempo_bpm", "key", "mode", "swing", "beats_s", "sections", "stems", "split"}
    assert wanted <= set(song)
    assert np.all(np.diff(song["beats_s"]) > 0)
    assert [s["zero_shot"] for s in song["stems"]].count("unseen instrument") == 1


def test_the_reader_yields_tracks_with_labelled_stems(built):
    tracks = {name: list(open_corpus("demo", built / name).tracks()) for name in NAMES}
    assert [t.track_id for t in tracks["demo"]] == [
        *("train-0000", "train-0001", "train-0002"),
        *("heldout-000", "heldout-001"),
    ]
    assert [t.split for t in tracks["demo"]] == ["train", "valid", "train", "test", "test"]
    assert [t.track_id for t in tracks["demo-plain"]] == ["heldout-000", "heldout-001"]
    stems = [stem for track in tracks["demo"] for stem in track.stems]
    assert all(file.is_file() and file.is_absolute() for stem in stems for file in stem.files)
    assert len({stem.stem_id for stem in stems}) == len(stems)
    assert sum(len(stem.labels) >= 2 for stem in stems) >= len(stems) - 2


@pytest.mark.parametrize("manifest", [None, "{}", "not JSON", '{"format_version": 1}'])
def test_a_wrong_root_says_what_was_looked_for(tmp_path, manifest):
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(CorpusError, match=r"manifest\.json") as error:
        DemoCorpus(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "stems demo" in str(error.value)


def test_a_missing_song_is_named(built, tmp_path):
    shutil.copytree(built / "demo", tmp_path, dirs_exist_ok=True)
    (tmp_path / "songs" / "train-0002" / "song.json").unlink()
    with pytest.raises(CorpusError, match="train-0002"):
        list(DemoCorpus(tmp_path).tracks())


@pytest.mark.parametrize("sample", [1.5, np.nan])
def test_a_wav_that_would_clip_is_refused(tmp_path, sample):
    with pytest.raises(ValueError, match="peak"):
        write_wav(tmp_path / "x.wav", np.array([0.0, sample]))
