from __future__ import annotations

import numpy as np
import pytest

from ml.beats.peaks import pick_peaks

FPS = 50


def test_a_hand_case():
    activation = np.array([0.4, 0.1, 0.9, 0.5, 0.9, 0.0, 0.0, 0.2, 0.6, 0.0, 0.0, 0.31])
    # Within two frames: 0 loses to 2; 4 is as high as 2 but later; 7 is below 0.3.
    found = pick_peaks(activation, FPS, min_distance_s=0.04)
    np.testing.assert_allclose(found, np.array([2, 8, 11]) / FPS)
    # Within one frame all local maxima from 0.3 on.
    found = pick_peaks(activation, FPS, min_distance_s=0.02)
    np.testing.assert_allclose(found, np.array([0, 2, 4, 8, 11]) / FPS)
    found = pick_peaks(activation, FPS, threshold=0.9, min_distance_s=0.02)
    np.testing.assert_allclose(found, np.array([2, 4]) / FPS)


def test_a_plateau_is_one_beat_where_it_begins():
    activation = np.zeros(100)
    activation[40:44] = 0.8
    assert pick_peaks(activation, FPS).tolist() == [0.8]


def test_equals_the_definition_frame_by_frame():
    random = np.random.default_rng(0)
    for reach in (0, 1, 3, 7, 200):
        activation = np.rint(random.random(150) * 8) / 8  # with many ties
        expected = []
        for frame, height in enumerate(activation):
            before = activation[max(0, frame - reach) : frame]
            after = activation[frame + 1 : frame + 1 + reach]
            if height >= 0.3 and (before < height).all() and (after <= height).all():
                expected.append(frame / FPS)
        assert pick_peaks(activation, FPS, min_distance_s=reach / FPS).tolist() == expected


def test_times_increase_inside_the_file_and_keep_their_distance():
    activation = np.random.default_rng(0).random(5000)
    found = pick_peaks(activation, FPS, min_distance_s=0.14)
    assert (np.diff(found) > 0.14).all()
    assert found[0] >= 0
    assert found[-1] < 100


def test_appended_silence_changes_nothing():
    activation = np.random.default_rng(1).random(500)
    longer = np.concatenate([activation, np.zeros(300)])
    np.testing.assert_array_equal(pick_peaks(longer, FPS), pick_peaks(activation, FPS))


def test_nothing_where_there_is_nothing():
    assert pick_peaks(np.empty(0), FPS).shape == (0,)
    assert pick_peaks(np.zeros(100), FPS, threshold=0).shape == (0,)
    assert pick_peaks(np.array([0.9]), FPS).tolist() == [0.0]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -0.1, 1.1])
def test_wrong_activations(wrong: float):
    with pytest.raises(ValueError, match="in frame 1"):
        pick_peaks(np.array([0.5, wrong]), FPS)


@pytest.mark.parametrize(
    "wrong", [{"fps": 0}, {"threshold": 2}, {"min_distance_s": -1}, {"threshold": np.nan}]
)
def test_wrong_parameters(wrong: dict):
    with pytest.raises(ValueError, match="expected fps above 0"):
        pick_peaks(np.zeros(3), **({"fps": FPS} | wrong))
