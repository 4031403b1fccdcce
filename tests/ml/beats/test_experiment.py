"""From recordings to scores: demo songs by splits, click tracks by folds, and any file."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ml.artifacts import ArtifactError, DataLayout
from ml.beats import feature_files
from ml.beats.beat_sets import open_beat_set, probe_tracks, read_demo_beats
from ml.beats.evaluate import ANNOTATION, PUBLISHED_SETS
from ml.beats.experiment import (
    EVALUATION,
    ONE_PROBE,
    PAIRED,
    CorpusActivations,
    build_beat_scores,
    read_examples,
)
from ml.beats.feature_files import build_beat_features
from ml.beats.features import BeatInput, beat_inputs
from ml.beats.probe import ProbeConfig
from ml.beats.probes import ALL, build_beat_probes, read_probe_manifest, read_probes
from ml.cli.beats import _print_published
from ml.cli.main import main as stems
from ml.corpora.demo.build import DemoCorpus
from ml.corpora.readers.beats import BeatCorpus
from ml.corpora.table import build_corpus_tracks
from ml.scores.files import read_scores
from ml.tracks import CorpusError

QUICK = ProbeConfig(epochs=2, learning_rate=1e-2)
FOLDED, UNFOLDED = "hainsworth", "gtzan"


@pytest.fixture
def click_sets(tmp_path: Path, make_clicks: Callable[..., np.ndarray]) -> Path:
    """Eight click tracks in eight folds, and one without a fold; 8 and 96 kHz among them."""
    names = {
        FOLDED: [f"hainsworth_{i:03d}" for i in range(8)],
        UNFOLDED: ["gtzan_blues_00000"],
    }
    for set_name, ids in names.items():
        beats_folder = tmp_path / "annotations" / set_name / "annotations" / "beats"
        audio = tmp_path / "audio" / set_name
        beats_folder.mkdir(parents=True)
        audio.mkdir(parents=True)
        for place, track_id in enumerate(ids):
            beats = np.arange(0.2 + 0.02 * place, 7.5, 0.5)
            (beats_folder / f"{track_id}.beats").write_text(
                "".join(f"{time:.3f}\t1\n" for time in beats)
            )
            waveform = make_clicks(beats, 8.0, seed=place)
            rate_hz = {0: 8_000, 1: 96_000}.get(place, 16_000)
            held = waveform[::2] if rate_hz == 8_000 else np.repeat(waveform, rate_hz // 16_000)
            soundfile.write(audio / f"{track_id}.wav", held, rate_hz, subtype="FLOAT")
        folds = "".join(f"{track_id}\t{place}\n" for place, track_id in enumerate(ids))
        (tmp_path / "annotations" / set_name / "8-folds.split").write_text(folds)
    return tmp_path


@pytest.fixture
def clicks_home(
    click_sets: Path, mel_input: BeatInput
) -> tuple[DataLayout, dict[str, BeatCorpus], BeatInput]:
    """The click tracks with their features."""
    layout = DataLayout(home=click_sets / "click-home")
    corpora = {}
    for name in (FOLDED, UNFOLDED):
        corpora[name] = BeatCorpus(click_sets / "audio" / name, name, click_sets / "annotations")
        build_corpus_tracks(name, corpora[name], layout)
        build_beat_features(name, [mel_input], layout)
    return layout, corpora, mel_input


def test_each_track_is_predicted_by_probes_that_have_not_seen_it(clicks_home):
    layout, corpora, source = clicks_home
    sets = {FOLDED: corpora[FOLDED].beat_set}
    artifact = build_beat_probes(source, sets, layout, QUICK)
    assert artifact.summary["folds"] == 8
    assert build_beat_probes(source, sets, layout, QUICK).reused
    probes = read_probes(layout, source.name, source.model_id)
    assert set(probes) == {ALL, *(f"fold-{i}" for i in range(8))}
    activations = CorpusActivations(FOLDED, sets[FOLDED], [source], layout)
    assert len(activations.places) == 8
    for place in activations.places:
        track = activations.tracks[place]
        own = probes[f"fold-{track.group}"].probe.activation(track.read(0), track.frames)
        assert np.array_equal(activations.predict(place)[source.name].values, own)


def test_tracks_without_folds_are_predicted_by_the_mean_and_by_one(clicks_home):
    layout, corpora, source = clicks_home
    build_beat_probes(source, {FOLDED: corpora[FOLDED].beat_set}, layout, QUICK)
    probes = read_probes(layout, source.name, source.model_id)
    activations = CorpusActivations(UNFOLDED, corpora[UNFOLDED].beat_set, [source], layout)
    (place,) = activations.places
    track, predicted = activations.tracks[place], activations.predict(place)
    found = {
        name: p.probe.activation(track.read(p.row), track.frames) for name, p in probes.items()
    }
    mean = np.mean([values for name, values in found.items() if name != ALL], axis=0)
    np.testing.assert_allclose(predicted[source.name].values, mean)
    assert np.array_equal(predicted[source.name + ONE_PROBE].values, found[ALL])


def test_files_of_any_rate_give_the_same_steps(clicks_home):
    layout, corpora, source = clicks_home
    tracks = probe_tracks(FOLDED, corpora[FOLDED].beat_set, layout, source.model_id)
    assert {track.steps for track in tracks} == {50}
    assert {track.frames for track in tracks} == {400}


def test_a_stopped_build_goes_on_where_it_was(clicks_home, mel_input: BeatInput):
    layout, corpora, source = clicks_home
    assert build_beat_features(FOLDED, [mel_input], layout)[0].reused
    other = replace(source, model_id="another")
    folder = layout.beat_features("another", FOLDED)
    write = feature_files._write_track
    written: list[Path] = []

    def stopping(inputs, waveform, paths, config) -> None:
        if len(written) >= 3:  # several threads write
            raise KeyboardInterrupt
        write(inputs, waveform, paths, config)
        written.append(paths["another"])

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(feature_files, "_write_track", stopping)
        build_beat_features(FOLDED, [other], layout)
    stamps = [path.stat().st_mtime_ns for path in written]
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        probe_tracks(FOLDED, corpora[FOLDED].beat_set, layout, "another")
    (made,) = build_beat_features(FOLDED, [other], layout)
    assert [path.stat().st_mtime_ns for path in written] == stamps
    assert made.summary["tracks"] == 8
    assert not list(folder.glob("*.part"))


def test_damaged_features_are_named(clicks_home):
    layout, corpora, source = clicks_home
    tracks = probe_tracks(FOLDED, corpora[FOLDED].beat_set, layout, source.model_id)
    tracks[3].features.write_bytes(tracks[3].features.read_bytes()[:200])
    with pytest.raises(ArtifactError, match=r"00003\.npy is missing or damaged"):
        build_beat_probes(source, {FOLDED: corpora[FOLDED].beat_set}, layout, QUICK)


def test_a_recording_that_never_sounds_is_counted(clicks_home, tmp_path: Path):
    layout, corpora, source = clicks_home
    silent = tmp_path / "audio" / FOLDED / "hainsworth_003.wav"
    soundfile.write(silent, np.zeros(16_000 * 8), 16_000)
    build_corpus_tracks(FOLDED, corpora[FOLDED], layout)
    (made,) = build_beat_features(FOLDED, [source], layout)
    assert (made.summary["tracks"], made.summary["silent_tracks"]) == (7, 1)


def test_demo_songs_from_encoders_to_scores(home: Path):
    layout = DataLayout(home=home)
    found = read_demo_beats(layout.corpora / "demo")
    build_corpus_tracks("demo", DemoCorpus(layout.corpora / "demo"), layout)
    inputs = beat_inputs(layout, ["untrained", "film", "log-mel"])
    features = build_beat_features("demo", inputs, layout)
    assert [artifact.summary["tracks"] for artifact in features] == [12, 12, 12]
    for source in inputs:
        build_beat_probes(source, {"demo": found}, layout, QUICK)
    scores = build_beat_scores("demo", found, inputs, layout, resamples=100)
    assert build_beat_scores("demo", found, inputs, layout, resamples=100).reused
    rows = read_scores(layout, corpus="demo", evaluation=EVALUATION)
    assert {row["model"] for row in rows} == {
        "untrained",
        "film",
        "log-mel",
        "onset curve",
        ANNOTATION,
    }
    assert {row["n_queries"] for row in rows} == {4}
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 100 for row in rows)
    assert all(row["value"] > 90 for row in rows if row["model"] == ANNOTATION)
    paired = read_scores(layout, corpus="demo", evaluation=PAIRED)
    assert {row["model"] for row in paired} == {"film minus untrained", "film minus log-mel"}
    by_name = {(r["model"], r["metric"]): r["value"] for r in rows}
    for row in paired:
        one, other = row["model"].split(" minus ")
        expected = by_name[one, row["metric"]] - by_name[other, row["metric"]]
        assert row["value"] == pytest.approx(expected)
    examples = read_examples(scores.path)
    assert len(examples) == 3
    assert all(example.mel is not None for example in examples)


def test_the_command_line_from_models_to_beats_of_a_file(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    at = ["--home", str(home)]
    models = ["film", "untrained"]
    assert stems([*at, "evaluate", "beats", "--model", *models, "--resamples", "100"]) == 0
    said = capsys.readouterr().out
    assert "beats: demo, all tracks, 4 tracks, percent" in said
    assert "film minus untrained" in said

    song, out, click = (tmp_path / name for name in ("song.wav", "beats.txt", "click.wav"))
    random = np.random.default_rng(0)
    soundfile.write(song, random.normal(0, 0.1, 22_050 * 3), 22_050)
    asked = [*at, "beats", str(song), "--model", "film"]
    assert stems([*asked, "--out", str(out), "--click", str(click), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["beats_s"] == [float(line) for line in out.read_text().split()]
    assert all(0 <= time < 3 for time in found["beats_s"])
    info = soundfile.info(str(click))
    assert (info.samplerate, info.frames) == (22_050, 22_050 * 3)

    assert stems([*at, "beats", str(song), "--model", "contrastive"]) == 2
    assert "no beat probe was trained on contrastive" in capsys.readouterr().err
    layout = DataLayout(home=home)
    assert read_probe_manifest(layout, "film")["model_id"] == found["model_id"]
    layout.beat_probes("untrained").rename(layout.beat_probes("contrastive"))
    assert stems([*at, "beats", str(song), "--model", "contrastive"]) == 2
    assert "belong to encoder" in capsys.readouterr().err
    assert stems([*at, "beats", str(song), "--model", "film", "--out", str(song)]) == 2
    assert "is the recording itself" in capsys.readouterr().err


def test_published_sets_are_corpora_like_others(
    home: Path, click_sets: Path, capsys: pytest.CaptureFixture[str]
):
    """Trained on by folds, scored by them; a set without folds by their mean and by one probe."""
    with (home / "config.yaml").open("a") as config:
        config.write(f"beats: {{corpora: [{FOLDED}], heldout: [{UNFOLDED}]}}\ncorpora:\n")
        for name in (FOLDED, UNFOLDED):
            options = f"{{set: {name}, annotations: {click_sets / 'annotations'}}}"
            root = click_sets / "audio" / name
            config.write(f"  {name}: {{kind: beats, root: {root}, options: {options}}}\n")
    asked = ["--home", str(home), "evaluate", "beats", "--model", "log-mel", "film"]
    asked += ["--resamples", "100", "--by-tempo", "--trained-on", FOLDED, "--min-bpm", "40"]
    assert stems(asked) == 0
    said = capsys.readouterr().out
    assert "beats: hainsworth, all tracks, 8 tracks, percent" in said
    assert "film (one probe)" in said
    assert "film (from 40 bpm)" in said
    assert "trained on hainsworth, theirs on ballroom, hainsworth, harmonix, smc" in said
    _print_published(UNFOLDED, PUBLISHED_SETS)
    assert "Riou et al.: 84.5 / 74.1 / 91.7" in capsys.readouterr().out
    assert "110-140: 8 tracks" in said


def test_a_corpus_without_beats_is_refused(tmp_path: Path):
    with pytest.raises(CorpusError, match="of kind folder, whose beats are not known"):
        open_beat_set("stems", "folder", tmp_path, {})
