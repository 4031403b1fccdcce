"""Beat times from an activation by the bar pointer model and exact Viterbi decoding.

The dynamic Bayesian network of Krebs, Böck and Widmer, "An efficient state-space model for joint
tempo and meter tracking" (ISMIR 2015), for beats alone. A *state* is a place in a beat of a certain
length: interval j (frames per beat) and position 0…interval − 1. The pointer moves one position a
frame, so a tempo is an interval; it can change only where a beat ends, from the last position of
one interval to the first of another. Intervals ascend, and states are numbered interval by
interval, position by position.

Only position 0 of an interval has a choice of predecessors; from there the pointer runs through
the interval without one. So a *path* is a list of beats, each an interval and the frame where it
begins, and the search needs one number per interval and frame: the score of the best path whose
beat ends just before that frame. What begins in a frame ends at least the shortest interval later,
so that many frames are computed at once. The choices are not stored but made again on the way
back, at the few frames where the best path has a beat.

All paths share the likelihood of a recording without beats. Scores leave it out: a state *gains*
something in its first positions, and nothing elsewhere. What is added is rounded to a fixed step
first, so that sums are exact: paths that are equally good stay so in whatever order their terms
are added, and which of them wins is a rule and not an accident.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ml.beats.peaks import checked_activation

_SQUASH = 1e-5
"""Activations of exactly 0 or 1 would forbid or force a beat; they are moved inside by half."""
_STEP = 2.0**-24
"""Of scores. The 53 bits of a float hold their sums up to 5e8: weeks of audio."""
_BLOCK_VALUES = 400_000
"""Of the sums that are compared at once: 3 MB, whatever the number of intervals."""


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
        """Place each beat of which some of the first positions are in the recording: its frame."""
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
    """Compute what it gains to be on a beat: (frame,) log p − log((1 − p) / (λ − 1)).

    ``activation`` is (frame,) probabilities, 0 and 1 allowed.
    """
    inside = activation * (1 - _SQUASH) + _SQUASH / 2
    return np.log(inside) - np.log((1 - inside) / (observation_lambda - 1))


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
    """Build the states of all tempi between two, at a frame rate.

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
    """List beat lengths in whole frames between two tempi: (interval,) int64, ascending.

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
    """Find the most probable path. Ties go to the lowest state, at the end and at each choice.

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
    """Score beats by where they end: (frame, interval).

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
    """Sum what a beat of each interval gains that begins in each frame: (frame, interval)."""
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
    """Find interval, start and score of the beat that the best path ends in."""
    interval = np.repeat(np.arange(len(space.intervals)), space.intervals)  # (state,)
    position = np.arange(space.num_states) - space.first_states[interval]
    scores = ended[n_frames + space.intervals[interval] - 1 - position, interval]
    best = int(scores.argmax())
    return int(interval[best]), n_frames - 1 - int(position[best]), float(scores[best])
