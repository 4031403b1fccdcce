from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.beats.dbn import (
    BeatStateSpace,
    DBNBeatDecoder,
    beat_gains,
    beat_intervals,
    best_path,
    build_state_space,
)

REFERENCE = os.environ.get("STEMS_REFERENCE", "")
FPS = 50


def activation_of(beats: np.ndarray, duration_s: float) -> np.ndarray:
    """What a very good network gives: 0.99 on a beat, 0.5 beside it, 0.01 elsewhere."""
    activation = np.full(round(duration_s * FPS), 0.01)
    frames = np.rint(beats * FPS).astype(int)
    for offset, height in ((-1, 0.5), (1, 0.5), (0, 0.99)):
        places = frames + offset
        activation[places[(places >= 0) & (places < len(activation))]] = height
    return activation


def viterbi(gains: np.ndarray, space: BeatStateSpace) -> tuple[list[int], float]:
    """All states, all frames, one by one; strictly better replaces, so the lowest state stays."""
    before = predecessors(space)
    positions = np.arange(space.num_states) - np.repeat(space.first_states, space.intervals)
    has_beat = positions < np.repeat(space.beat_positions, space.intervals)
    scores = [0.0] * space.num_states
    came_from = []
    for gain in gains:
        best = [(-1, -np.inf)] * space.num_states
        for state, options in enumerate(before):
            for other, change in options:
                if scores[other] + change > best[state][1]:
                    best[state] = (other, scores[other] + change)
        scores = [score + gain * on for (_, score), on in zip(best, has_beat, strict=True)]
        came_from.append([other for other, _ in best])
    path = [int(np.argmax(scores))]
    for row in came_from[:0:-1]:
        path.append(row[path[-1]])
    return path[::-1], max(scores)


def predecessors(space: BeatStateSpace) -> list[list[tuple[int, float]]]:
    """Of each state: the states before it, and the log-probability, in the steps of the search."""
    last = space.intervals.cumsum() - 1
    found = []
    for j, length in enumerate(space.intervals):
        changes = np.rint(space.log_transitions[:, j] * 2**24) / 2**24
        found.append([(int(last[i]), float(c)) for i, c in enumerate(changes) if np.isfinite(c)])
        found += [[(len(found) + k, 0.0)] for k in range(-1, length - 2)]
    return found


def small_space(fps: float, low: float, high: float, observation: float) -> BeatStateSpace:
    return build_state_space(
        fps,
        min_bpm=low,
        max_bpm=high,
        num_tempi=None,
        transition_lambda=4,
        observation_lambda=observation,
    )


@pytest.mark.parametrize(
    ("fps", "low", "high", "observation"),
    [(10, 60, 150, 16), (10, 60, 150, 3), (10, 55, 200, 1.5), (5, 60, 300, 2), (8, 100, 101, 4)],
)
@pytest.mark.parametrize("kind", ["random", "ties", "constant"])
def test_equals_viterbi_over_all_states(
    fps: float, low: float, high: float, observation: float, kind: str
):
    space = small_space(fps, low, high, observation)
    random = np.random.default_rng(0)
    for n_frames in (1, 2, 3, 5, 9, 10, 11, 40, 83):
        gains = {
            "random": np.rint(random.normal(-1, 3, n_frames) * 2**20) / 2**20,
            "ties": random.integers(-1, 2, n_frames).astype(float),
            "constant": np.zeros(n_frames),
        }[kind]
        found = best_path(gains, space)
        path, score = viterbi(gains, space)
        assert found.score == score
        assert found.states(space, n_frames).tolist() == path


def test_blocks_of_limited_size_change_nothing(monkeypatch: pytest.MonkeyPatch):
    decoder = DBNBeatDecoder(FPS)
    activation = np.random.default_rng(1).random(400)
    expected = decoder(activation)
    monkeypatch.setattr("ml.beats.dbn._BLOCK_VALUES", 5000)
    np.testing.assert_array_equal(decoder(activation), expected)


@pytest.mark.parametrize(
    ("fps", "steepness", "states", "transitions", "shortest", "longest"),
    [(50, 100, 1449, 2287, 14, 55), (50, 10, 1449, 3171, 14, 55), (100, 100, 5617, 8934, 28, 109)],
)
def test_size_of_the_state_space(fps, steepness, states, transitions, shortest, longest):
    space = DBNBeatDecoder(fps, transition_lambda=steepness).space
    assert (space.num_states, space.num_transitions) == (states, transitions)
    assert space.intervals.tolist() == list(range(shortest, longest + 1))
    np.testing.assert_allclose(np.exp(space.log_transitions).sum(axis=1), 1)


def test_beat_positions_by_hand():
    space = DBNBeatDecoder(FPS).space
    found = dict(zip(space.intervals.tolist(), space.beat_positions.tolist(), strict=True))
    # 16 frames: 1/16 is the first position alone; 17: 1/17 < 1/16 makes it two; 33: 2/33 < 1/16.
    assert [found[n] for n in (14, 16, 17, 32, 33, 48, 49, 55)] == [1, 1, 2, 2, 3, 3, 4, 4]


def test_fewer_tempi_are_logarithmic_whole_and_different():
    every = beat_intervals(FPS, min_bpm=55, max_bpm=215, num_tempi=None)
    for asked in (1, 2, 5, 20, 41):
        found = beat_intervals(FPS, min_bpm=55, max_bpm=215, num_tempi=asked)
        assert len(found) >= asked
        assert set(found) <= set(every)
        assert (np.diff(found) > 0).all()
    few = beat_intervals(FPS, min_bpm=55, max_bpm=215, num_tempi=5)
    assert few.tolist() == [14, 20, 28, 39, 55]
    assert beat_intervals(FPS, min_bpm=55, max_bpm=215, num_tempi=60).tolist() == every.tolist()


def test_constant_tempi_are_recovered():
    decoder = DBNBeatDecoder(FPS)
    for bpm in range(60, 181, 5):
        beats = np.arange(0.31, 29.9, 60 / bpm)
        found = decoder(activation_of(beats, 30))
        tempo = 60 * (len(found) - 1) / (found[-1] - found[0])
        assert tempo == pytest.approx(bpm, rel=0.01)
        assert abs(found[:, None] - beats).min(axis=0).max() <= 0.03


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("threshold", [0, 0.4])
@pytest.mark.parametrize("num_tempi", [None, 12])
def test_times_increase_inside_the_file(correct: bool, threshold: float, num_tempi: int | None):
    decoder = DBNBeatDecoder(FPS, threshold=threshold, correct=correct, num_tempi=num_tempi)
    for seed in range(12):
        random = np.random.default_rng(seed)
        activation = random.beta(0.3, 1, random.integers(1, 700))
        found = decoder(activation)
        assert found.dtype == np.float64
        assert (np.diff(found) > 0).all()
        assert ((found >= 0) & (found < len(activation) / FPS)).all()


def test_corrected_beats_are_the_highest_near_the_pointer():
    activation = np.random.default_rng(0).beta(0.3, 1, 1000)
    corrected, begun = (DBNBeatDecoder(FPS, correct=c)(activation) for c in (True, False))
    assert len(corrected) == len(begun)
    # Four positions of an interval at most are the beat.
    assert ((corrected >= begun) & (corrected < begun + 4 / FPS)).all()
    heights = [activation[np.rint(times * FPS).astype(int)] for times in (corrected, begun)]
    assert (heights[0] >= heights[1]).all()


def test_silence_around_changes_nothing_with_a_threshold():
    decoder = DBNBeatDecoder(FPS, threshold=0.05)
    activation = activation_of(np.arange(0.31, 20, 0.5), 20)
    before, after = np.zeros(113), np.zeros(777)
    found = decoder(np.concatenate([before, activation, after]))
    np.testing.assert_allclose(found, decoder(activation) + 113 / FPS, atol=1e-9)


def test_appended_silence_does_not_move_the_beats_before_it():
    activation = activation_of(np.arange(0.31, 20, 0.5), 20)
    alone = DBNBeatDecoder(FPS)(activation)
    longer = DBNBeatDecoder(FPS)(np.concatenate([activation, np.zeros(500)]))
    np.testing.assert_array_equal(longer[longer < 19], alone[alone < 19])


def test_nothing_where_there_is_nothing():
    assert DBNBeatDecoder(FPS)(np.empty(0)).shape == (0,)
    assert DBNBeatDecoder(FPS)(np.zeros(1500)).shape == (0,)
    assert DBNBeatDecoder(FPS, threshold=0.5)(np.full(1500, 0.4)).shape == (0,)
    # A single frame, even the first one, is a recording too.
    assert DBNBeatDecoder(FPS, threshold=0.5)(np.array([0.9, 0, 0])).tolist() == [0.0]


def test_certain_activations_leave_a_path():
    beats = np.arange(0.3, 10, 0.5)
    activation = np.zeros(500)
    activation[np.rint(beats * FPS).astype(int)] = 1
    np.testing.assert_allclose(DBNBeatDecoder(FPS)(activation), beats, atol=1e-9)
    assert np.isfinite(beat_gains(np.array([0.0, 1.0]), 16)).all()
    assert len(DBNBeatDecoder(FPS)(np.ones(500)))


@pytest.mark.parametrize(
    ("activation", "words"),
    [
        (np.array([0.1, np.nan, 0.2]), "nan in frame 1"),
        (np.array([0.1, 0.2, np.inf]), "inf in frame 2"),
        (np.array([-0.1, 0.2]), "-0.1 in frame 0"),
        (np.array([0.1, 1.5, 2.0]), r"1.5 in frame 1 \(2 of 3"),
        (np.zeros((10, 8)), r"shape \(10, 8\); expected \(frame,\)"),
        (np.float64(0.5), r"shape \(\)"),
    ],
)
def test_wrong_activations(activation: np.ndarray, words: str):
    with pytest.raises(ValueError, match=words):
        DBNBeatDecoder(FPS)(activation)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"fps": 0}, "fps = 0"),
        ({"fps": np.nan}, "fps = nan"),
        ({"fps": np.inf}, "fps = inf"),
        ({"min_bpm": 215}, "min_bpm = 215"),
        ({"min_bpm": 0}, "min_bpm = 0"),
        ({"max_bpm": np.inf}, "max_bpm = inf"),
        ({"num_tempi": 0}, "num_tempi = 0"),
        ({"transition_lambda": -1}, "transition_lambda = -1"),
        ({"observation_lambda": 1}, "observation_lambda = 1"),
        ({"threshold": 1.1}, "threshold = 1.1"),
        ({"fps": 1}, "max_bpm = 215 is 0.28 frames long at fps = 1"),
    ],
)
def test_wrong_parameters(wrong: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        DBNBeatDecoder(**{"fps": FPS, **wrong})


@pytest.mark.reference
@pytest.mark.skipif(not REFERENCE, reason="STEMS_REFERENCE names no folder of beat vectors")
def test_equals_the_reference_decoder():
    files = sorted((Path(REFERENCE) / "beat_vectors").glob("*.npz"))
    assert len(files) == 12
    for path in files:
        case = {name: value for name, value in np.load(path).items()}
        parameters = {
            name: case[name].item()
            for name in ("fps", "min_bpm", "max_bpm", "transition_lambda", "observation_lambda")
        }
        parameters["threshold"] = case["threshold"].item()
        parameters["num_tempi"] = None if case["num_tempi"] < 0 else case["num_tempi"].item()
        for name, correct in (("beats", case["correct"].item()), ("beats_nocorrect", False)):
            decoder = DBNBeatDecoder(**parameters, correct=correct)
            np.testing.assert_array_equal(
                decoder(case["activation"]), case[name], err_msg=path.name
            )
        space = decoder.space
        assert space.num_states == case["num_states"]
        assert space.num_transitions == case["num_transitions"]
        np.testing.assert_array_equal(space.intervals, case["intervals"])
        _check_path(space, case)


def _check_path(space: BeatStateSpace, case: dict[str, np.ndarray]) -> None:
    n_frames, first = len(case["path"]), int(case["path_first_frame"])
    if not n_frames:
        return
    inside = case["activation"][first : first + n_frames].astype(np.float64)
    observation = float(case["observation_lambda"])
    found = best_path(beat_gains(inside, observation), space)
    np.testing.assert_array_equal(found.states(space, n_frames), case["path"])
    squashed = inside * (1 - 1e-5) + 5e-6
    without_beats = np.log((1 - squashed) / (observation - 1)).sum()
    log_prob = found.score + without_beats - np.log(space.num_states)
    # The reference does not squash.
    np.testing.assert_allclose(log_prob, case["log_prob"], rtol=1e-5)
