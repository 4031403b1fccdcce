"""Scores of beats by hand and by mir_eval, average precision by its definition, and chance."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import mir_eval
import numpy as np
import pytest
import torch

from ml.audio.mel import LogMel, LogMelConfig
from ml.beats.dbn import DBNBeatDecoder
from ml.beats.evaluate import (
    METRICS,
    PRECISION,
    PUBLISHED,
    TEMPO_CLASSES,
    TRIM_S,
    Activation,
    annotation_activation,
    average_precision,
    beat_scores,
    chance_scores,
    score_track,
    tempo_bpm,
    tempo_class,
)
from ml.beats.peaks import metronome, onset_curve, pick_peaks
from ml.beats.probe import FPS, ProbeTrack
from ml.corpora.readers.beats import beat_frames, read_beat_annotations
from ml.metrics import BEATS

REFERENCE = os.environ.get("STEMS_REFERENCE", "")
EVEN = np.arange(0.5, 30, 0.5)


def test_perfect_beats_score_1():
    assert beat_scores(EVEN, EVEN) == {"f_measure": 1, "cmlt": 1, "amlt": 1}


def test_hand_cases():
    # Every second beat: all of them right, half of them found; right at another metrical level.
    found = beat_scores(EVEN, EVEN[::2])
    assert found["f_measure"] == pytest.approx(2 / 3, abs=0.01)
    assert (found["cmlt"], found["amlt"]) == (0, 1)
    # Offbeats.
    found = beat_scores(EVEN, EVEN + 0.25)
    assert (found["f_measure"], found["cmlt"]) == (0, 0)
    assert found["amlt"] == 49 / 50  # the last annotation has no offbeat
    # 80 ms late is outside of 70 ms and inside of 17.5 % of a beat.
    assert beat_scores(EVEN, EVEN + 0.08) == {"f_measure": 0, "cmlt": 1, "amlt": 1}


def test_what_happens_before_5_s_does_not_count():
    wrong = np.concatenate([np.arange(0.1, 5, 0.13), EVEN[EVEN >= 5]])
    assert beat_scores(EVEN, wrong) == beat_scores(EVEN, EVEN)
    # 5 s itself counts.
    assert beat_scores([5.0, 6.0], [5.0, 6.0])["f_measure"] == 1


def test_agrees_with_mir_eval():
    for seed in range(40):
        random = np.random.default_rng(seed)
        sizes = random.integers(0, 40, 2)
        reference, estimate = (np.sort(random.uniform(0, 25, size)) for size in sizes)
        if seed % 2:
            estimate = np.sort(np.abs(reference[::-1] + random.normal(0, 0.05, len(reference))))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = mir_eval.beat.evaluate(reference, estimate)
        found = beat_scores(reference, estimate)
        names = ("F-measure", "Correct Metric Level Total", "Any Metric Level Total")
        assert list(found.values()) == [expected[name] for name in names]


@pytest.mark.filterwarnings("error")
def test_empty_lists_score_0_without_warnings():
    nothing = dict.fromkeys(METRICS, 0.0)
    assert beat_scores([], EVEN) == nothing
    assert beat_scores(EVEN, []) == nothing
    assert beat_scores([], []) == nothing
    assert beat_scores([1.0, 2.0], [1.0, 2.0]) == nothing  # all before 5 s
    assert beat_scores([7.0], [7.0]) == nothing | {"f_measure": 1.0}  # no interval to continue


@pytest.mark.parametrize(
    "wrong",
    [[[1.0, 2.0]], [2.0, 1.0], [1.0, 1.0], [1.0, np.nan], [1.0, np.inf], [-1.0, 2.0]],
)
def test_wrong_beats(wrong: list):
    with pytest.raises(ValueError, match="the estimate beats"):
        beat_scores(EVEN, wrong)
    with pytest.raises(ValueError, match="the reference beats"):
        beat_scores(wrong, EVEN)


def test_tempo_and_its_class():
    assert tempo_bpm(np.array([0, 0.5, 1.0, 9.0])) == 120
    assert np.isnan(tempo_bpm(np.array([1.0])))
    assert tempo_class(np.nan) is None
    assert [tempo_class(bpm) for bpm in (79.9, 80, 139, 140, 182)] == [
        "below 80", "80-110", "110-140", "140-182", "182 and above"
    ]  # fmt: skip
    assert len(TEMPO_CLASSES) == 5


def test_published_rows_are_those_of_table_2():
    assert {(row.system, row.set_name) for row in PUBLISHED} == {
        (system, name)
        for system in ("Riou et al.", "Gagneré et al.", "Böck et al.")
        for name in ("gtzan", "smc")
    }
    assert all(0 < row.cmlt <= row.f_measure <= row.amlt + 0.1 < 1.1 for row in PUBLISHED)


@pytest.mark.reference
@pytest.mark.skipif(not REFERENCE, reason="STEMS_REFERENCE names no folder of annotations")
@pytest.mark.parametrize(
    ("set_name", "ceilings"),
    [("smc", (0.832, 0.693, 0.855)), ("hainsworth", (0.969, 0.931, 0.967))],
)
def test_ceilings_of_the_decoder_at_50_fps(set_name: str, ceilings: tuple[float, ...]):
    """What near-perfect activations score: the same as with the reference decoder."""
    tracks = read_beat_annotations(Path(REFERENCE) / "beat_annotations", set_name).tracks
    decoder = DBNBeatDecoder(50)
    scores = [
        beat_scores(track.beats, decoder(_near_perfect(track.beats)))
        for track in tracks
        if np.any(track.beats >= TRIM_S)
    ]
    means = [np.mean([score[metric] for score in scores]) for metric in METRICS]
    np.testing.assert_allclose(means, ceilings, atol=0.001)


def _near_perfect(beats: np.ndarray) -> np.ndarray:
    """(frame,) 0.99 on a beat, 0.5 beside it, 0.01 elsewhere, ending 1 s after the last."""
    frames = beat_frames(beats, 50)
    activation = np.full(frames[-1] + 50, 0.01)
    for offset, height in ((-1, 0.5), (1, 0.5), (0, 0.99)):
        activation[(frames + offset).clip(min=0)] = height
    return activation


def precision_by_definition(activation: np.ndarray, is_beat: np.ndarray) -> float:
    """For each beat frame: of the frames at least as high, the share that are beats."""
    shares = [is_beat[activation >= activation[frame]].mean() for frame in np.flatnonzero(is_beat)]
    return float(np.mean(shares))


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_its_definition(seed: int):
    random = np.random.default_rng(seed)
    activation = random.integers(0, 12, 200) / 12  # with many ties
    is_beat = random.random(200) < 0.1
    expected = precision_by_definition(activation, is_beat)
    assert average_precision(activation, is_beat) == pytest.approx(expected)


def test_average_precision_at_its_ends():
    is_beat = np.array([True, False, False, True])
    assert average_precision(is_beat.astype(float), is_beat) == 1
    assert average_precision(np.zeros(4), is_beat) == 0.5
    assert np.isnan(average_precision(np.zeros(4), np.zeros(4, dtype=bool)))


def test_perfect_activations_score_1_and_say_what_chance_is(mel_input, make_track):
    track: ProbeTrack = make_track(mel_input, 3, duration_s=20.0)
    steady = np.arange(0.3, 19.5, 0.5)
    track = ProbeTrack(**{**track.__dict__, "beats": steady})
    activation = Activation(values=annotation_activation(track), peak_threshold=0.9)
    values = score_track(track, activation, DBNBeatDecoder(FPS))
    assert set(values) == set(BEATS)
    assert min(values.values()) > 0.95  # the network may add a beat at the end
    assert values["peak_f_measure"] == values[PRECISION] == 1
    chance = chance_scores(track)
    assert set(chance) == set(BEATS)
    assert chance["f_measure"] == 0  # 120 bpm, but 0.2 s beside every beat
    assert chance[PRECISION] == pytest.approx(39 / (1000 - 2 * 39))


def test_onsets_rise_where_sounds_begin(make_clicks: Callable[..., np.ndarray]):
    beats = np.arange(0.5, 9.5, 0.6)
    waveform = torch.from_numpy(make_clicks(beats, 10.0))
    mel = LogMel(LogMelConfig())(waveform[None])[0].T.numpy()
    curve = onset_curve(mel, 100, FPS, 500)
    assert curve.shape == (500,)
    assert curve.max() == 1
    found = pick_peaks(curve, FPS, threshold=0.4)
    assert len(found) == len(beats)
    assert np.abs(found - beats).max() <= 0.021
    assert not onset_curve(np.zeros((100, 80), dtype=np.float32), 100, FPS, 50).any()
    assert len(onset_curve(mel[::2], 50, FPS, 500)) == 500


def test_metronome():
    assert metronome(2.0).tolist() == [0.0, 0.5, 1.0, 1.5]
