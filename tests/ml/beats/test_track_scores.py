"""Average precision against its definition, the onset curve, and what chance gets."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ml.audio.mel import LogMel, LogMelConfig
from ml.beats.dbn import DBNBeatDecoder
from ml.beats.peaks import metronome, onset_curve, pick_peaks
from ml.beats.probe import FPS, ProbeTrack
from ml.beats.scores import (
    PRECISION,
    TRACK_SCORES_METRICS,
    Activation,
    annotation_activation,
    average_precision,
    chance_scores,
    score_track,
)


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
    assert set(values) == set(TRACK_SCORES_METRICS)
    assert min(values.values()) > 0.95  # the network may add a beat at the end
    assert values["peak_f_measure"] == values[PRECISION] == 1
    chance = chance_scores(track)
    assert set(chance) == set(TRACK_SCORES_METRICS)
    assert chance["f_measure"] == 0  # 120 bpm, but 0.2 s beside every beat
    assert chance[PRECISION] == pytest.approx(39 / (1000 - 2 * 39))


def test_onsets_rise_where_sounds_begin(make_clicks: Callable[..., np.ndarray]):
    beats = np.arange(0.5, 9.5, 0.6)
    waveform = torch.from_numpy(make_clicks(beats, 10.0))
    mel = LogMel(LogMelConfig())(waveform[None])[0].T.numpy()
    curve = onset_curve(mel, 500)
    assert curve.shape == (500,)
    assert curve.max() == 1
    found = pick_peaks(curve, FPS, threshold=0.4)
    assert len(found) == len(beats)
    assert np.abs(found - beats).max() <= 0.021
    assert not onset_curve(np.zeros((100, 80), dtype=np.float32), 50).any()


def test_metronome():
    assert metronome(2.0).tolist() == [0.0, 0.5, 1.0, 1.5]
