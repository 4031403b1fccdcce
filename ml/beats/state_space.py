"""The bar pointer's states and tempo changes, for one beat (Krebs, Böck and Widmer, ISMIR 2015).

A state is a place in a beat of a certain length: interval j (frames per beat) and position
0…interval − 1. The pointer moves one position a frame, so a tempo is an interval; it can change
only where a beat ends, from the last position of one interval to the first of another. Intervals
ascend, and states are numbered interval by interval, position by position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class BeatStateSpace:
    """What the decoder searches."""

    intervals: np.ndarray
    """(interval,) int64: beat lengths in frames, ascending."""
    log_transitions: np.ndarray
    """(interval before, interval after) float64: log-probability of the tempo change at the end
    of a beat, −inf where it is impossible."""
    beat_positions: np.ndarray
    """(interval,) int64: how many positions from 0 on count as the beat itself."""

    @property
    def num_states(self) -> int:
        """Number of states."""
        return int(self.intervals.sum())

    @property
    def num_transitions(self) -> int:
        """Number of possible transitions, those inside beats included."""
        changes = int(np.isfinite(self.log_transitions).sum())
        return self.num_states - len(self.intervals) + changes

    @property
    def first_states(self) -> np.ndarray:
        """(interval,) int64: the state at position 0 of each interval."""
        return np.concatenate([[0], self.intervals.cumsum()[:-1]])


def build_state_space(
    fps: float,
    *,
    min_bpm: float,
    max_bpm: float,
    num_tempi: int | None,
    transition_lambda: float,
    observation_lambda: float,
) -> BeatStateSpace:
    """The states of all tempi between two, at a frame rate.

    Args:
        fps: frames per second.
        min_bpm: slowest tempo.
        max_bpm: fastest tempo.
        num_tempi: see ``beat_intervals``.
        transition_lambda: steepness of the tempo-change distribution (equation 9 of the paper):
            p(after | before) ∝ exp(−λ · |after / before − 1|), intervals in frames.
        observation_lambda: the first 1/λ of a beat counts as the beat.
    """
    intervals = beat_intervals(fps, min_bpm=min_bpm, max_bpm=max_bpm, num_tempi=num_tempi)
    return BeatStateSpace(
        intervals=intervals,
        log_transitions=_log_transitions(intervals, transition_lambda),
        # position / interval < 1 / λ
        beat_positions=np.ceil(intervals / observation_lambda).astype(np.int64),
    )


def beat_intervals(
    fps: float, *, min_bpm: float, max_bpm: float, num_tempi: int | None
) -> np.ndarray:
    """Beat lengths in whole frames between two tempi: (interval,) int64, ascending.

    All of them, or for ``num_tempi`` (section 3.2 of the paper: fewer states, tempo resolution
    like that of hearing) logarithmically spaced ones. Rounding makes short ones coincide, so the
    grid is refined until that many differ; if there are not that many, all are taken.

    Raises:
        ValueError: the fastest tempo's beat is shorter than a frame.
    """
    shortest, longest = 60 * fps / max_bpm, 60 * fps / min_bpm
    if round(shortest) < 1:
        raise ValueError(
            f"a beat at max_bpm = {max_bpm} is {shortest:.2f} frames long at fps = {fps}; expected "
            "at least one frame; lower max_bpm or give the activation more frames per second"
        )
    every = np.arange(round(shortest), round(longest) + 1)
    if num_tempi is None or num_tempi >= len(every):
        return every
    points, chosen = num_tempi, every[:0]
    while len(chosen) < num_tempi:
        chosen = np.unique(np.rint(np.geomspace(shortest, longest, points)).astype(np.int64))
        points += 1
    return chosen


def _log_transitions(intervals: np.ndarray, steepness: float) -> np.ndarray:
    ratio = intervals[None, :] / intervals[:, None]  # (interval before, interval after)
    probability = np.exp(-steepness * np.abs(ratio - 1))
    # What is below the rounding error of 1 is no tempo change: it costs time and changes nothing.
    probability[probability <= np.spacing(1)] = 0
    probability /= probability.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.log(probability)
