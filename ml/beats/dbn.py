"""Beat times from an activation by the bar pointer model and exact Viterbi decoding.

The dynamic Bayesian network of Krebs, Böck and Widmer, "An efficient state-space model for joint
tempo and meter tracking" (ISMIR 2015), for beats alone: ``state_space`` holds the states,
``viterbi`` the search; here is what the activation says about a state, and how a path becomes
times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ml.beats.activation import checked_activation
from ml.beats.state_space import BeatStateSpace, build_state_space
from ml.beats.viterbi import BeatPath, best_path

_SQUASH = 1e-5
"""Activations of exactly 0 or 1 would forbid or force a beat; they are moved inside by half."""


@dataclass(frozen=True)
class DBNBeatDecoder:
    """Decoder for activations of one frame rate: ``decoder(activation)`` gives beat times in s.

    Raises:
        ValueError: a parameter is out of its range.
    """

    fps: float
    """Frames per second of the activation; frame n is at n / fps s."""
    min_bpm: float = 55
    """Slowest tempo."""
    max_bpm: float = 215
    """Fastest tempo."""
    num_tempi: int | None = None
    """Number of tempi, logarithmically spaced; None: one for each beat length in frames."""
    transition_lambda: float = 100
    """How improbable tempo changes are; 0: all are alike."""
    observation_lambda: float = 16
    """The first 1/λ of a beat counts as the beat."""
    threshold: float = 0
    """Leading and trailing frames with an activation below it hold no beats."""
    correct: bool = True
    """Put each beat on its highest frame; False: where the model has the beat begin."""
    space: BeatStateSpace = field(init=False, repr=False, compare=False)
    """States and tempo changes that follow from the above."""

    def __post_init__(self) -> None:
        self._check()
        space = build_state_space(
            self.fps,
            min_bpm=self.min_bpm,
            max_bpm=self.max_bpm,
            num_tempi=self.num_tempi,
            transition_lambda=self.transition_lambda,
            observation_lambda=self.observation_lambda,
        )
        object.__setattr__(self, "space", space)

    def __call__(self, activation: np.ndarray) -> np.ndarray:
        """Decode one recording.

        Args:
            activation: (frame,) probability of a beat in each frame, 0…1.

        Returns:
            (beat,) float64: beat times in s, increasing; empty where no frame is above 0 and
            at least ``threshold``.

        Raises:
            ValueError: a wrong shape, NaN, infinite, or outside of 0…1.
        """
        values = checked_activation(activation)
        loud = np.flatnonzero((values >= self.threshold) & (values > 0))
        if not len(loud):
            return np.empty(0)
        first, last = (loud[0], loud[-1] + 1) if self.threshold else (0, len(values))
        values = values[first:last]
        path = best_path(beat_gains(values, self.observation_lambda), self.space)
        return (first + self._frames(values, path)) / self.fps

    def _frames(self, activation: np.ndarray, path: BeatPath) -> np.ndarray:
        """The frame of each beat of which some of the first positions are in the recording."""
        starts = path.starts.clip(min=0)
        ends = (path.starts + self.space.beat_positions[path.intervals]).clip(max=len(activation))
        pairs = [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]
        if not self.correct:
            return np.array([start for start, _ in pairs], dtype=np.int64)
        peaks = [start + activation[start:end].argmax() for start, end in pairs]
        return np.array(peaks, dtype=np.int64)

    def _check(self) -> None:
        limits = {
            "fps": 0 < self.fps < math.inf,
            "min_bpm": 0 < self.min_bpm < self.max_bpm,
            "max_bpm": self.max_bpm < math.inf,
            "num_tempi": self.num_tempi is None or self.num_tempi >= 1,
            "transition_lambda": 0 <= self.transition_lambda < math.inf,
            "observation_lambda": 1 < self.observation_lambda < math.inf,
            "threshold": 0 <= self.threshold <= 1,
        }
        wrong = [
            f"{name} = {getattr(self, name)}" for name, is_right in limits.items() if not is_right
        ]
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)}; expected fps above 0, 0 < min_bpm < max_bpm, num_tempi None "
                "or at least 1, transition_lambda at least 0, observation_lambda above 1, "
                "threshold from 0 to 1, all finite"
            )


def beat_gains(activation: np.ndarray, observation_lambda: float) -> np.ndarray:
    """What it gains to be on a beat: (frame,) log p − log((1 − p) / (λ − 1)).

    ``activation`` is (frame,) probabilities, 0 and 1 allowed.
    """
    inside = activation * (1 - _SQUASH) + _SQUASH / 2
    return np.log(inside) - np.log((1 - inside) / (observation_lambda - 1))
