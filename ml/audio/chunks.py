"""Where the chunks of a long waveform start, and which of them sound.

A file of its own: the rule for silence (``ml.audio.activity``) knows nothing of models' chunks.
"""

from __future__ import annotations

from collections.abc import Sequence

from ml.audio.activity import active_seconds

MIN_ACTIVE_S = 0.25
"""A chunk takes part in an embedding when at least this much of it sounds."""


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
