"""Decoding of beat activations, beside a Viterbi search that takes one step a frame."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ml.beats.dbn import BeatStateSpace, DBNBeatDecoder, beat_gains
from ml.benchmarks.measure import Measure, cost_of

_FPS = 50
_PEER = "numpy, one step a frame"


def measure() -> Iterator[Measure]:
    """Decode a short and a long recording whose activations are known."""
    decoder = DBNBeatDecoder(_FPS)
    for seconds, asked_ms, repeats in ((30, 10, 15), (300, 120, 5)):
        activation = _activation(seconds)
        gains = beat_gains(activation, decoder.observation_lambda)
        ours = cost_of(lambda a=activation: decoder(a), repeats=repeats)
        peer = cost_of(lambda g=gains: _stepwise(g, decoder.space), repeats=3)
        yield Measure(
            name=f"DBN decoding of {seconds} s at {_FPS} fps",
            value=1000 * ours.cpu_s,
            unit="CPU ms",
            asked=asked_ms,
            lower_is_better=True,
            peer=_PEER,
            peer_value=1000 * peer.cpu_s,
            note=f"{decoder.space.num_states} states, {1000 * ours.wall_s:.1f} ms of wall time",
        )


def _activation(seconds: float) -> np.ndarray:
    """Draw (frame,) beats of a tempo that drifts around 120 bpm, over a floor of noise."""
    random = np.random.default_rng(0)
    activation = random.uniform(0, 0.1, round(seconds * _FPS))
    times = np.cumsum(0.5 + 0.05 * np.sin(np.arange(2 * seconds) / 20))
    frames = np.rint(times[times < seconds - 0.1] * _FPS).astype(int)
    activation[frames] = random.uniform(0.4, 1, len(frames))
    activation[frames + 1] = 0.4
    return activation


def _stepwise(gains: np.ndarray, space: BeatStateSpace) -> np.ndarray:
    """Search frame by frame over all states; returns the state in each frame."""
    first, n_states = space.first_states, space.num_states
    last = first + space.intervals - 1
    position = np.arange(n_states) - np.repeat(first, space.intervals)
    is_beat = position < np.repeat(space.beat_positions, space.intervals)
    inside = np.arange(-1, n_states - 1)
    came_from = np.empty((len(gains), n_states), dtype=np.int32)
    scores = np.zeros(n_states)
    for frame, gain in enumerate(gains):
        options = scores[last][:, None] + space.log_transitions  # (before, after)
        chosen = options.argmax(axis=0)
        came_from[frame] = inside
        came_from[frame, first] = last[chosen]
        scores = scores[inside]
        scores[first] = options[chosen, np.arange(len(first))]
        scores += gain * is_beat
    states = np.empty(len(gains), dtype=np.int64)
    states[-1] = scores.argmax()
    for frame in range(len(gains) - 1, 0, -1):
        states[frame - 1] = came_from[frame, states[frame]]
    return states
