"""When a stem sounds: the one rule for silence that scanning, shards and evaluation share.

A frame is loud when its RMS level reaches ``on_db`` and quiet when it falls below ``off_db``; in
between it stays what it was (hysteresis), so that a decaying note is not cut into pieces. Levels
are in dB relative to full scale, around the frame's own mean: a constant (the DC offset of a sound
card) is silence, a full-scale sine about -3 dB. Of a long waveform, cut into chunks for a model,
those take part that sound for ``MIN_ACTIVE_S``.

Differs: the predecessor (Riou et al., arXiv:2408.02514) calls a chunk active when its peak exceeds
0.1, which drops quiet parts of unmastered stems and keeps a single click.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_BLOCK_FRAMES = 1024
"""Taken to float64 at once."""
MIN_ACTIVE_S = 0.25
"""A chunk takes part in an embedding when at least this much of it sounds."""


@dataclass(frozen=True, kw_only=True)
class ActivityConfig:
    """The silence rule."""

    frame_s: float = 0.05
    """Length of a frame in s; frames do not overlap."""
    on_db: float = -50.0
    """A silent stem begins to sound at a frame of at least this RMS level."""
    off_db: float = -60.0
    """A sounding stem falls silent at a frame below this RMS level; at most ``on_db``."""
    min_active_s: float = 0.1
    """Shorter sounds are dropped (after short silences were filled)."""
    min_silence_s: float = 0.3
    """Shorter silences between two sounds count as sound."""

    def __post_init__(self) -> None:
        if not self.frame_s > 0:
            raise ValueError(f"frame_s = {self.frame_s}; expected more than 0")
        if not self.off_db <= self.on_db:
            raise ValueError(f"off_db = {self.off_db} is above on_db = {self.on_db}; swap them")
        if self.min_active_s < 0 or self.min_silence_s < 0:
            raise ValueError(
                f"min_active_s = {self.min_active_s}, min_silence_s = {self.min_silence_s}; "
                "expected at least 0"
            )


def active_intervals(
    waveform: np.ndarray, rate_hz: int, config: ActivityConfig
) -> list[tuple[float, float]]:
    """Find where a waveform sounds.

    Args:
        waveform: (samples,) float, full scale 1.0.
        rate_hz: its sampling rate.
        config: the silence rule.

    Returns:
        (start, end) in s, sorted, disjoint, within the waveform; multiples of ``frame_s`` but for
        an end at the end of the waveform.
    """
    frame = max(1, round(config.frame_s * rate_hz))
    power = frame_power(waveform, frame)
    loud = _hysteresis(power, _power(config.on_db), _power(config.off_db))
    frames_per_s = rate_hz / frame
    runs = _fill(_runs(loud), config.min_silence_s * frames_per_s)
    runs = [(a, b) for a, b in runs if b - a >= config.min_active_s * frames_per_s - 1e-9]
    duration_s = len(waveform) / rate_hz
    return [(a * frame / rate_hz, min(b * frame / rate_hz, duration_s)) for a, b in runs]


def active_seconds(intervals: Iterable[tuple[float, float]], start_s: float, end_s: float) -> float:
    """Count the seconds of ``intervals`` (disjoint) between ``start_s`` and ``end_s``."""
    return math.fsum(max(0.0, min(b, end_s) - max(a, start_s)) for a, b in intervals)


def frame_power(waveform: np.ndarray, frame_samples: int) -> np.ndarray:
    """Compute each frame's variance, the last perhaps shorter: (samples,) → (frame,) float64."""
    whole = len(waveform) // frame_samples
    body = waveform[: whole * frame_samples].reshape(whole, frame_samples)
    tail = waveform[whole * frame_samples :].astype(np.float64)
    blocks = [_variance(body[n : n + _BLOCK_FRAMES]) for n in range(0, whole, _BLOCK_FRAMES)]
    return np.concatenate([*blocks, [np.var(tail)] if tail.size else []])


def _variance(frames: np.ndarray) -> np.ndarray:
    """Compute the variance of each row: (frame, samples) → (frame,), by BLAS in float64."""
    frames, samples = frames.astype(np.float64), frames.shape[1]
    mean = frames @ np.full(samples, 1 / samples)
    square = np.matmul(frames[:, None, :], frames[:, :, None]).ravel() / samples
    return np.maximum(square - mean**2, 0.0)


def _power(level_db: float) -> float:
    return 10.0 ** (level_db / 10.0)


def _hysteresis(power: np.ndarray, on: float, off: float) -> np.ndarray:
    """Mark each frame: True from a frame ≥ ``on`` until a frame < ``off``."""
    decided = (power >= on) | (power < off)
    if not power.size:
        return np.zeros(0, dtype=bool)
    decided[0] = True  # before the first frame there is silence
    last_decided = np.maximum.accumulate(np.where(decided, np.arange(power.size), 0))
    return (power >= on)[last_decided]


def _runs(active: np.ndarray) -> list[tuple[int, int]]:
    edges = np.diff(active.astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _fill(runs: list[tuple[int, int]], min_silence_frames: float) -> list[tuple[int, int]]:
    filled: list[tuple[int, int]] = []
    for start, end in runs:
        if filled and start - filled[-1][1] < min_silence_frames - 1e-9:
            filled[-1] = (filled[-1][0], end)
        else:
            filled.append((start, end))
    return filled


def active_starts(
    intervals: Sequence[tuple[float, float]], samples: int, chunk_samples: int, rate_hz: int
) -> list[int]:
    """Find the first samples of the consecutive chunks that sound for at least ``MIN_ACTIVE_S``.

    Args:
        intervals: when the waveform sounds, in seconds.
        samples: length of the waveform.
        chunk_samples: length of a chunk; a shorter waveform is one short chunk.
        rate_hz: sample rate.
    """
    return [
        start
        for start in chunk_starts(samples, chunk_samples)
        if active_seconds(intervals, start / rate_hz, (start + chunk_samples) / rate_hz)
        >= MIN_ACTIVE_S
    ]


def chunk_starts(samples: int, chunk_samples: int) -> Sequence[int]:
    """List where consecutive chunks of a waveform start; the last is aligned to the end.

    A waveform shorter than a chunk is one (short) chunk.
    """
    last = max(0, samples - chunk_samples)
    return [*range(0, last, chunk_samples), last]
