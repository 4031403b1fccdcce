from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile

import ml.corpora.midi.corpus as corpus_module
from ml.artifacts import DataLayout, file_fingerprint
from ml.cli.main import main
from ml.corpora.corpus import open_corpus
from ml.corpora.midi import fluidsynth
from ml.corpora.midi.corpus import MADE_WITH, MidiCorpus
from ml.corpora.midi.renderings import PROGRAMS, drum_labels, program_labels
from ml.corpora.registration import register_corpus, render_missing
from ml.corpora.table import build_corpus_tracks, read_corpus_tracks
from ml.labels.taxonomy import CATEGORIES
from ml.processes import cluster
from ml.settings import load_settings
from ml.tracks import CorpusError
from ml.upkeep import collect_leftovers


@pytest.fixture
def root(song: Callable[..., Path], tmp_path: Path) -> Path:
    """Three files, and two that cannot be used."""
    folder = tmp_path / "midi"
    song(folder / "a.mid", (0, 33, 48))
    song(folder / "below" / "b.mid", (5, 38, 73), pitch=55)
    song(folder / "c.MID", (24, 32, 40), pitch=50)
    shutil.copy(folder / "a.mid", folder / "z.mid")
    (folder / "broken.mid").write_bytes(b"MThd")
    return folder


def opened(root: Path, audio: Path, soundfonts: list[Path], **options: Any) -> MidiCorpus:
    names = ",".join(map(str, soundfonts))
    options = {"seconds": 8, "renderings": 2, **options}
    corpus = open_corpus("midi", root, soundfonts=names, audio=str(audio), **options)
    assert isinstance(corpus, MidiCorpus)
    return corpus


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.flac")
    }


def test_the_same_bytes_whoever_renders_in_whatever_order(
    root: Path, tmp_path: Path, soundfonts: list[Path]
):
    corpus = opened(root, tmp_path / "one", soundfonts)
    planned = list(corpus.tracks())
    corpus.render()
    (root / "a.mid").rename(root / "x.mid")  # the order of files, and what was played before
    moved = opened(root, tmp_path / "two", soundfonts)
    moved.render(workers=2)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert sorted(one.values()) == sorted(two.values())
    assert len(set(one.values())) == len(one)
    files = {path for track in planned for stem in track.stems for path in stem.files}
    assert files == {tmp_path / "one" / name for name in one}
    assert list(opened(root, tmp_path / "two", soundfonts).tracks()) == list(moved.tracks())


def test_a_cluster_renders_the_same_bytes(
    song: Callable[..., Path], tmp_path: Path, soundfonts: list[Path]
):
    distributed = pytest.importorskip("distributed")
    for name in "ab":
        song(tmp_path / "midi" / f"{name}.mid", (0, 33, 48), pitch=ord(name) - 40)
    opened(tmp_path / "midi", tmp_path / "here", soundfonts, renderings=1).render()
    corpus = opened(tmp_path / "midi", tmp_path / "there", soundfonts, renderings=1)
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None) as dask,
        cluster(dask.scheduler_address) as executor,
    ):
        corpus.render(executor=executor)
    assert contents(tmp_path / "there") == contents(tmp_path / "here") != {}


def test_what_workers_wrote_to_disks_of_their_own_is_missed(
    song: Callable[..., Path], tmp_path: Path, soundfonts: list[Path]
):
    class Elsewhere(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *units: Any, **_: Any):
            player = replace(fn.__self__, audio=tmp_path / "elsewhere")
            return super().submit(player.render, *units)

    song(tmp_path / "midi" / "a.mid", (0, 33, 48))
    corpus = opened(tmp_path / "midi", tmp_path / "audio", soundfonts, renderings=1)
    with (
        Elsewhere(1) as executor,
        pytest.raises(CorpusError, match=r"audio here does not hold them.*dask_scheduler"),
    ):
        corpus.render(executor=executor)
    assert contents(tmp_path / "elsewhere")


def test_what_plays_is_needed_only_where_songs_are_missing(
    song: Callable[..., Path],
    tmp_path: Path,
    soundfonts: list[Path],
    monkeypatch: pytest.MonkeyPatch,
):
    song(tmp_path / "midi" / "a.mid", (0, 33, 48))
    fonts = [tmp_path / "x.sf2"]
    shutil.copyfile(soundfonts[0], fonts[0])

    def reopened() -> MidiCorpus:
        return opened(tmp_path / "midi", tmp_path / "audio", fonts, renderings=1)

    reopened().render()
    tracks, whole = list(reopened().tracks()), contents(tmp_path / "audio")
    fonts[0].unlink()
    monkeypatch.setattr(fluidsynth, "find_library", lambda _: "not-there.so")
    fluidsynth._library.cache_clear()
    reopened().render()
    assert (list(reopened().tracks()), contents(tmp_path / "audio")) == (tracks, whole)
    shutil.rmtree(tracks[0].stems[0].files[0].parent)
    with pytest.raises(CorpusError, match=r"cannot play the songs: .*x\.sf2 does not exist"):
        reopened().render()
    shutil.copy(soundfonts[0], fonts[0])
    with pytest.raises(CorpusError, match=r"cannot play the songs: FluidSynth.* is not installed"):
        reopened().render()
    (tmp_path / "audio" / MADE_WITH).unlink()
    with pytest.raises(CorpusError, match="is not installed"):
        reopened()


def test_a_worker_that_would_play_other_samples_is_refused_by_name(
    song: Callable[..., Path],
    tmp_path: Path,
    soundfonts: list[Path],
    monkeypatch: pytest.MonkeyPatch,
):
    song(tmp_path / "midi" / "a.mid", (0, 33, 48))
    fonts = [tmp_path / "x.sf2"]
    shutil.copyfile(soundfonts[0], fonts[0])
    corpus = opened(tmp_path / "midi", tmp_path / "audio", fonts, renderings=1)
    own = file_fingerprint(fonts[0])[:16]
    shutil.copyfile(soundfonts[1], fonts[0])
    os.utime(fonts[0], ns=(0, 0))
    monkeypatch.setattr(corpus_module, "fluidsynth_version", lambda: "0.9")
    differing = rf"{socket.gethostname()} .*FluidSynth is 0\.9, not \d.*x\.sf2 is \w+, not {own}"
    with ThreadPoolExecutor(1) as executor, pytest.raises(CorpusError, match=differing):
        corpus.render(executor=executor)
    assert not contents(tmp_path / "audio")


def test_songs_sound_are_labelled_and_stay_in_the_split_of_their_file(
    root: Path, tmp_path: Path, soundfonts: list[Path]
):
    corpus = opened(root, tmp_path / "audio", soundfonts, test_share=0.5, valid_share=0.2)
    corpus.render()
    tracks = list(corpus.tracks())
    assert len(tracks) == 6
    assert len({track.track_id for track in tracks}) == 6
    for name in "abc":
        assert len({track.split for track in tracks if track.title == name}) == 1
    for stem in (stem for track in tracks for stem in track.stems):
        waveform, rate_hz = soundfile.read(stem.files[0])
        assert rate_hz == 16_000
        assert np.isfinite(waveform).all()
        assert stem.labels[0] in CATEGORIES
        assert len(waveform) == 8 * rate_hz
    assert corpus.left_out.keys() == {"z.mid", "broken.mid"}
    assert corpus.left_out["z.mid"] == "has the bytes of a.mid"


def test_what_is_there_is_kept_and_what_is_not_of_the_corpus_goes(
    root: Path, tmp_path: Path, soundfonts: list[Path]
):
    audio = tmp_path / "audio"
    corpus = opened(root, audio, soundfonts)
    corpus.render()
    whole = contents(audio)
    gone = next(stem.files[0].parent for track in corpus.tracks() for stem in track.stems)
    shutil.rmtree(gone)
    (audio / ".x.tmp").mkdir()
    times = {path: path.stat().st_mtime_ns for path in audio.rglob("*.flac")}
    opened(root, audio, soundfonts).render()
    assert contents(audio) == whole
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert not (audio / ".x.tmp").exists()
    (root / "c.MID").unlink()
    opened(root, audio, soundfonts).render()
    assert len(contents(audio)) < len(whole)
    opened(root, audio, soundfonts, seed=1).render()
    assert not contents(audio).keys() & whole.keys()


def test_a_home_renders_and_scans(
    root: Path, tmp_path: Path, soundfonts: list[Path], capsys: pytest.CaptureFixture[str]
):
    layout = DataLayout(home=tmp_path / "home")
    stems = ["--home", str(layout.home), "corpus"]
    options = [f"soundfonts={','.join(map(str, soundfonts))}", "seconds=8", "renderings=2"]
    words = [word for option in options for word in ("--option", option)]
    assert main([*stems, "add", "mine", "midi", str(root), *words]) == 0
    assert "mine (6 tracks)" in capsys.readouterr().out
    assert main([*stems, "build", "mine", "--workers", "1"]) == 0
    table = read_corpus_tracks(layout, "mine")
    assert table["track_id"].n_unique() == 6
    assert set(table["rate_hz"]) == {16_000}
    assert all(Path(file).is_relative_to(layout.corpora / "mine") for (file,) in table["files"])
    capsys.readouterr()
    assert main([*stems, "build", "mine", "--workers", "1"]) == 0
    assert "is up to date" in capsys.readouterr().out
    assert main([*stems, "remove", "mine", "--delete"]) == 0
    assert list(layout.home.rglob("*.flac")) == []
    assert (root / "a.mid").is_file()


def test_what_gc_drops_beyond_the_bound_is_rendered_again_to_the_same_bytes(
    root: Path, tmp_path: Path, soundfonts: list[Path]
):
    settings = load_settings(tmp_path / "home")
    options = {"soundfonts": str(soundfonts[0]), "seconds": 8}
    name = register_corpus(settings, "midi", root, "mine", options)
    settings = load_settings(settings.home)
    render_missing(settings, name)
    layout, audio = settings.layout, settings.layout.corpora / name
    whole = contents(audio)
    oldest, *newer = sorted(audio.glob("*/"), key=lambda song: song.stat().st_mtime_ns)
    size = sum(path.stat().st_size for path in audio.rglob("*.flac"))
    assert collect_leftovers(layout).found == []
    bounded = replace(layout, rendered_gb=(size - 1) / 1e9)
    (found,) = collect_leftovers(bounded, delete=True).found
    assert found.path == oldest
    assert all(song.is_dir() for song in newer)
    assert not oldest.exists()
    render_missing(settings, name)
    assert contents(audio) == whole


def test_a_part_that_no_soundfont_plays_is_named(
    root: Path, tmp_path: Path, soundfonts: list[Path]
):
    layout = DataLayout(home=tmp_path / "home")
    build_corpus_tracks("keys", opened(root, layout.corpora / "keys", soundfonts[1:]), layout)
    silent = read_corpus_tracks(layout, "keys").filter(pl.col("active_s") == 0)
    assert ["drums", "drum kit"] in silent["labels"].to_list()
    assert all("never sounds" in problem for problem in silent["problem"])


def test_names_in_another_encoding_are_shown(
    song: Callable[..., Path], tmp_path: Path, soundfonts: list[Path]
):
    for name, programs in ((b"h\xf6he.mid", (0, 33, 48)), (b"h\xf6her.mid", ())):
        song(tmp_path / "midi" / os.fsdecode(name), programs)
    corpus = opened(tmp_path / "midi", tmp_path / "audio", soundfonts, renderings=1)
    build_corpus_tracks("odd", corpus, DataLayout(home=tmp_path / "home"))
    assert read_corpus_tracks(DataLayout(home=tmp_path / "home"), "odd")["title"][0] == "höhe"
    assert list(corpus.left_out) == ["höher.mid"]


def test_drums_can_be_stems_of_their_own(root: Path, tmp_path: Path, soundfonts: list[Path]):
    corpus = opened(root, tmp_path / "audio", soundfonts, split_drums=True)
    labels = {stem.labels for track in corpus.tracks() for stem in track.stems}
    assert {("drums", "kick drum"), ("drums", "snare drum")} <= labels
    assert ("drums", "drum kit") not in labels


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"soundfonts": ""}, "no soundfont is given"),
        ({"soundfonts": "/nowhere/x.sf2"}, "does not exist"),
        ({"soundfonts": "x.sf2"}, "give its whole path"),
        ({"seconds": "1"}, "seconds is 1.0"),
        ({"seed": "one"}, "option"),
        ({"loud": True}, "has no option 'loud'"),
    ],
)
def test_wrong_options_are_named(
    root: Path, soundfonts: list[Path], options: dict[str, Any], why: str
):
    given = {"soundfonts": str(soundfonts[0])} | options
    with pytest.raises(CorpusError, match=why):
        open_corpus("midi", root, **given)


def test_a_file_that_is_no_soundfont_is_named(root: Path, tmp_path: Path, soundfonts: list[Path]):
    del soundfonts  # skips without FluidSynth
    wrong = tmp_path / "x.sf2"
    wrong.write_bytes(b"RIFF")
    with pytest.raises(CorpusError, match=r"x\.sf2 is no soundfont"):
        opened(root, tmp_path / "audio", [wrong]).render()


def test_a_corpus_of_no_home_can_be_listed_but_not_rendered(root: Path, soundfonts: list[Path]):
    corpus = open_corpus("midi", root, soundfonts=str(soundfonts[0]))
    assert len(list(corpus.tracks())) == 3
    assert isinstance(corpus, MidiCorpus)
    with pytest.raises(CorpusError, match="corpus add NAME midi ROOT"):
        corpus.render()


def test_every_program_has_labels_of_the_taxonomy():
    assert len(PROGRAMS) == 128
    for labels in [*map(program_labels, range(128)), *map(drum_labels, (None, 36, 38, 42, 70))]:
        assert labels[0] in CATEGORIES, labels
        assert all(label == label.lower() for label in labels)
    assert program_labels(33) == ("bass", "finger electric bass")
    assert program_labels(52) == ("vocals", "choir aahs")
