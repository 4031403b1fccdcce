from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ml.corpora.table
from ml.artifacts import ArtifactError, DataLayout
from ml.corpora.readers.manifest import ManifestCorpus
from ml.corpora.scan import scan_stems
from ml.corpora.table import build_corpus_tracks, read_corpus_tracks, tracks_of_table
from ml.tracks import CorpusError, Stem, Track


@pytest.fixture
def layout(tmp_path: Path) -> DataLayout:
    return DataLayout(home=tmp_path / "home")


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the stems that were decoded, in order."""
    seen: list[str] = []

    def counting(stems, **options):
        seen.extend(stem.stem_id for stem in stems)
        return scan_stems(stems, **options)

    monkeypatch.setattr(ml.corpora.table, "scan_stems", counting)
    return seen


def test_the_table_gives_back_the_tracks_of_the_reader(write_corpus, layout) -> None:
    corpus = ManifestCorpus(write_corpus(a=("bass", "drums > snare drum"), b=("", "piano")))
    artifact = build_corpus_tracks("c", corpus, layout)
    table = read_corpus_tracks(layout, "c")
    assert tracks_of_table(table) == list(corpus.tracks())
    row = table.row(1, named=True)
    path = Path(row["files"][0])
    samples, _ = soundfile.read(path)
    assert row["content_hash"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (row["rate_hz"], row["channels"], row["duration_s"]) == (16000, 1, 1.1)
    assert row["active_s"] == pytest.approx(1.1)
    assert row["peak"] == pytest.approx(np.abs(samples).max())
    assert row["rms_db"] == pytest.approx(10 * np.log10(np.mean(samples**2)), abs=1e-3)
    assert (row["corpus"], row["category"], row["problem"]) == ("c", "drums", None)
    assert artifact.summary["tracks"] == 2
    assert artifact.summary["usable_stems"] == artifact.summary["stems"] == 4
    assert artifact.summary["train_tracks"] == 2
    assert artifact.summary["hours"] == pytest.approx(2.2 / 3600)


def test_files_that_start_late_and_streams_survive_the_round_trip(tmp_path, layout) -> None:
    soundfile.write(tmp_path / "x.wav", np.resize([0.5, -0.5], 8000), 16000)
    files = (tmp_path / "x.wav", tmp_path / "x.wav")
    stem = Stem(stem_id="t/a", files=files, start_s=0.5, stream=0, has_bleed=True)
    tracks = [Track(track_id="t", stems=(stem, replace(stem, stem_id="t/b")), title="T")]
    build_corpus_tracks("c", _Listed(tmp_path, tracks), layout)
    table = read_corpus_tracks(layout, "c")
    assert tracks_of_table(table) == tracks
    assert table["duration_s"].to_list() == [1.0, 1.0]
    assert table["active_s"].to_list() == [0.5, 0.5]
    assert table["peak"].to_list() == [1.0, 1.0]


def test_nothing_new_is_reused_and_decodes_nothing(write_corpus, layout, scanned) -> None:
    path = write_corpus(a=("bass", "drums"))
    first = build_corpus_tracks("c", ManifestCorpus(path), layout)
    again = build_corpus_tracks("c", ManifestCorpus(path), layout)
    assert scanned == ["a/a_0", "a/a_1"]
    assert (first.reused, again.reused) == (False, True)
    assert again.fingerprint == first.fingerprint
    assert again.summary == first.summary


def test_only_a_changed_file_is_decoded_again(write_corpus, layout, scanned) -> None:
    path = write_corpus(a=("bass", "drums"), b=("bass", "piano"))
    first = build_corpus_tracks("c", ManifestCorpus(path), layout)
    scanned.clear()
    soundfile.write(path.parent / "b_0.wav", np.full(4800, 0.25), 16000)
    second = build_corpus_tracks("c", ManifestCorpus(path), layout)
    assert scanned == ["b/b_0"]
    assert second.fingerprint != first.fingerprint
    assert read_corpus_tracks(layout, "c")["duration_s"].to_list() == [1.0, 1.1, 0.3, 1.1]


def test_a_new_label_changes_the_version_but_decodes_nothing(write_corpus, layout, scanned) -> None:
    path = write_corpus(a=("bass", "drums"))
    first = build_corpus_tracks("c", ManifestCorpus(path), layout)
    path.write_text(path.read_text().replace("drums", "drums > toms"))
    scanned.clear()
    second = build_corpus_tracks("c", ManifestCorpus(path), layout)
    assert scanned == []
    assert not second.reused
    assert second.fingerprint != first.fingerprint
    assert read_corpus_tracks(layout, "c")["labels"].to_list()[1] == ["drums", "toms"]


@pytest.mark.parametrize("written_s", [0, 4e9], ids=["long ago", "in the future"])
def test_touched_or_moved_files_keep_the_version(write_corpus, layout, scanned, written_s) -> None:
    path = write_corpus(a=("bass", "drums"))
    first = build_corpus_tracks("c", ManifestCorpus(path), layout)
    os.utime(path.parent / "a_0.wav", (written_s, written_s))
    touched = build_corpus_tracks("c", ManifestCorpus(path), layout)
    assert (touched.fingerprint, touched.reused) == (first.fingerprint, True)
    assert scanned == ["a/a_0", "a/a_1", "a/a_0"]
    moved = path.parent.rename(path.parent.with_name("moved"))
    again = build_corpus_tracks("c", ManifestCorpus(moved / "corpus.csv"), layout)
    assert again.fingerprint == first.fingerprint
    assert len(scanned) == 3
    files = read_corpus_tracks(layout, "c")["files"].to_list()
    assert files[0] == [str(moved / "a_0.wav")]


def test_two_processes_find_what_one_finds(write_corpus, tmp_path) -> None:
    labels = ("bass", "drums", "piano", "vocals", "organ", "toms")
    corpus = ManifestCorpus(write_corpus(a=labels, b=labels, c=labels))
    homes = [DataLayout(home=tmp_path / str(n)) for n in (1, 2)]
    artifacts = [
        build_corpus_tracks("c", corpus, home, workers=n) for n, home in enumerate(homes, 1)
    ]
    assert artifacts[0].fingerprint == artifacts[1].fingerprint
    one, two = (read_corpus_tracks(home, "c") for home in homes)
    assert one.equals(two)


def test_problems_are_recorded_and_the_rest_goes_on(write_corpus, layout) -> None:
    path = write_corpus(bad=("a", "b", "c", "d", "e", "f", "g"), one=("bass", "drums"))
    root = path.parent
    (root / "bad_0.wav").unlink()
    (root / "bad_1.wav").write_bytes(b"not audio" * 100)
    soundfile.write(root / "bad_2.wav", np.zeros(16000), 16000)
    soundfile.write(root / "bad_3.wav", np.array([0.1, np.nan]), 16000, subtype="FLOAT")
    soundfile.write(root / "bad_4.wav", np.zeros(0), 16000)
    soundfile.write(root / "one_1.wav", np.full(16000, 1e-4), 16000)
    artifact = build_corpus_tracks("c", ManifestCorpus(path), layout)
    table = read_corpus_tracks(layout, "c")
    problems = table["problem"].to_list()
    expected = ["not exist", "decoded", "never sounds", "NaN", "no samples", None, None]
    expected += ["is the only stem of track 'one'", "never sounds"]
    for place, (problem, words) in enumerate(zip(problems, expected, strict=True)):
        assert (problem is None) if words is None else (words in problem), (place, problem)
        assert problem is None or table["files"][place][0] in problem
    assert [active > 0 for active in table["active_s"]] == [False] * 5 + [True] * 3 + [False]
    usable = [stem.stem_id for track in tracks_of_table(table) for stem in track.stems]
    assert usable == ["bad/bad_5", "bad/bad_6", "one/one_0"]
    assert artifact.summary["problems"] == 7
    json.dumps(dict(artifact.summary), allow_nan=False)


def test_a_repaired_file_loses_its_problem(write_corpus, layout, scanned) -> None:
    path = write_corpus(a=("bass", "drums"))
    (path.parent / "a_0.wav").rename(path.parent / "away.wav")
    build_corpus_tracks("c", ManifestCorpus(path), layout)
    (path.parent / "away.wav").rename(path.parent / "a_0.wav")
    scanned.clear()
    build_corpus_tracks("c", ManifestCorpus(path), layout)
    assert scanned == ["a/a_0"]
    assert read_corpus_tracks(layout, "c")["problem"].to_list() == [None, None]


def test_an_empty_corpus_and_double_ids_are_refused(tmp_path, layout) -> None:
    with pytest.raises(CorpusError, match="holds no stems"):
        build_corpus_tracks("c", _Listed(tmp_path, []), layout)
    track = Track(track_id="t", stems=(Stem(stem_id="t/a", files=(tmp_path / "a.wav",)),) * 2)
    with pytest.raises(CorpusError, match="'t/a' twice"):
        build_corpus_tracks("c", _Listed(tmp_path, [track]), layout)
    assert not layout.home.exists()


def test_a_missing_table_says_how_to_make_it(layout) -> None:
    with pytest.raises(ArtifactError, match="stems corpus build c"):
        read_corpus_tracks(layout, "c")


class _Listed:
    def __init__(self, root: Path, tracks: list[Track]) -> None:
        self.root = root
        self._tracks = tracks

    def tracks(self):
        return iter(self._tracks)
