"""Exact Viterbi search through the bar pointer's states.

Only position 0 of an interval has a choice of predecessors; from there the pointer runs through
the interval without one. So a path is a list of beats, each an interval and the frame where it
begins, and the search needs one number per interval and frame: the score of the best path whose
beat ends just before that frame. What begins in a frame ends at least the shortest interval later,
so that many frames are computed at once. The choices are not stored but made again on the way
back, at the few frames where the best path has a beat.

All paths share the likelihood of a recording without beats. Scores leave it out: a state gains
something in its first positions, and nothing elsewhere. What is added is rounded to a fixed step
first, so that sums are exact: paths that are equally good stay so in whatever order their terms
are added, and which of them wins is a rule and not an accident.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml.beats.state_space import BeatStateSpace

_STEP = 2.0**-24
"""Of scores. The 53 bits of a float hold their sums up to 5e8: weeks of audio."""
_BLOCK_VALUES = 400_000
"""Of the sums that are compared at once: 3 MB, whatever the number of intervals."""


@dataclass(frozen=True, kw_only=True)
class BeatPath:
    """The best way through the states, as beats that follow each other without a gap."""

    starts: np.ndarray
    """(beat,) int64: the frame where each begins; the first may have begun before frame 0."""
    intervals: np.ndarray
    """(beat,) int64: index of its interval in the state space; the last may end after the file."""
    score: float
    """Log-likelihood over that of a recording without beats; the uniform start is left out."""

    def states(self, space: BeatStateSpace, n_frames: int) -> np.ndarray:
        """(frame,) int64: the state in each frame."""
        lengths = np.diff(self.starts, append=n_frames)
        positions = np.arange(self.starts[0], n_frames) - np.repeat(self.starts, lengths)
        states = np.repeat(space.first_states[self.intervals], lengths) + positions
        return states[-n_frames:]


def best_path(gains: np.ndarray, space: BeatStateSpace) -> BeatPath:
    """The most probable path. Ties go to the lowest state, at the end and at each choice.

    All states are equally probable before the first frame, and a transition leads to it.

    Args:
        gains: (frame,) what a state at a beat gains in each frame, finite; at least one frame.
        space: the states.
    """
    changes = _rounded(space.log_transitions)
    ended = _ended_scores(_rounded(gains), changes, space)
    interval, start, score = _best_end(ended, len(gains), space)
    starts, intervals = [start], [interval]
    while start > 0:
        interval = int((ended[start] + changes[:, interval]).argmax())
        start -= int(space.intervals[interval])
        starts.append(start)
        intervals.append(interval)
    return BeatPath(starts=np.array(starts[::-1]), intervals=np.array(intervals[::-1]), score=score)


def _ended_scores(gains: np.ndarray, changes: np.ndarray, space: BeatStateSpace) -> np.ndarray:
    """Scores of beats that end: (frame, interval).

    Row t, column j: the best path that is in the last state of interval j in frame t − 1. Rows
    from ``len(gains)`` on are paths that leave the recording inside a beat, as if frames followed
    in which nothing is gained.
    """
    n_intervals = len(space.intervals)
    block = int(min(space.intervals[0], max(1, _BLOCK_VALUES // n_intervals**2)))
    n_rows = -(-len(gains) // block) * block
    beats = _beat_gains(gains, n_rows, space)
    ended = np.zeros((n_rows + space.intervals[-1], n_intervals))
    _fill_beginnings(ended, gains, space)
    flat = ended.reshape(-1)
    # (frame of the block, interval): where in ``flat`` a beat that begins there ends.
    ends = (np.arange(block)[:, None] + space.intervals) * n_intervals + np.arange(n_intervals)
    # The interval before comes first: a maximum over whole planes is the fastest.
    options = np.empty((n_intervals, block, n_intervals))
    begun = np.empty((block, n_intervals))
    for row in range(0, n_rows, block):
        before = ended[row : row + block].T
        # (interval before, frame, interval after) → (frame, interval after)
        np.add(before[:, :, None], changes[:, None, :], out=options)
        options.max(axis=0, out=begun)
        begun += beats[row : row + block]
        flat[row * n_intervals :][ends] = begun
    return ended


def _beat_gains(gains: np.ndarray, n_rows: int, space: BeatStateSpace) -> np.ndarray:
    """What a beat of each interval gains that begins in each frame: (frame, interval)."""
    longest = int(space.beat_positions[-1])
    padded = np.concatenate([gains, np.zeros(n_rows - len(gains) + longest)])
    sums = np.zeros((longest + 1, n_rows))
    for position in range(longest):
        sums[position + 1] = sums[position] + padded[position : position + n_rows]
    return sums[space.beat_positions].T.copy()


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.rint(values / _STEP) * _STEP


def _fill_beginnings(ended: np.ndarray, gains: np.ndarray, space: BeatStateSpace) -> None:
    """Score the beats that the recording begins in the middle of, where they gain something."""
    for j, positions in enumerate(space.beat_positions):
        for missed in range(1, positions):
            ended[space.intervals[j] - missed, j] = gains[: positions - missed].sum()


def _best_end(ended: np.ndarray, n_frames: int, space: BeatStateSpace) -> tuple[int, int, float]:
    """Interval, start and score of the beat that the best path ends in."""
    interval = np.repeat(np.arange(len(space.intervals)), space.intervals)  # (state,)
    position = np.arange(space.num_states) - space.first_states[interval]
    scores = ended[n_frames + space.intervals[interval] - 1 - position, interval]
    best = int(scores.argmax())
    return int(interval[best]), n_frames - 1 - int(position[best]), float(scores[best])
