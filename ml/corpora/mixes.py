"""Is one of a track's stems a bounce of its mix? Told by content, from a few hundred bytes a stem.

Such a stem equals the sum of the others, at any level. A *sketch* is a stem's projection on 256
random directions: sketches add up as waveforms do, and keep their correlations to a few percent
(an AMS or "count" sketch), so that a scan need not hold the stems of a track together. A stem that
goes as well with a single other one is a double and no mix.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

MIX_CORRELATION = 0.95
"""A stem is taken for the mix when it goes so well with the sum of the others."""
_SKETCH = 256
_SKETCH_ROWS = 4096
"""Rows of ``_SKETCH`` samples whose signs are drawn at once."""
_MAX_SUM = 60_000.0
"""What float16 holds."""


def sketch_of(waveform: np.ndarray) -> str:
    """Project (samples,) on 256 random directions: sample n counts for n mod 256, with a sign."""
    total = np.zeros(_SKETCH)
    size = _SKETCH * _SKETCH_ROWS
    for place, start in enumerate(range(0, len(waveform), size)):
        block = waveform[start : start + size]
        rows = -(-len(block) // _SKETCH)
        padded = np.zeros(rows * _SKETCH, dtype=np.float32)
        padded[: len(block)] = block
        total += np.einsum("ij,ij->j", padded.reshape(rows, _SKETCH), _signs(place)[:rows])
    total = total.clip(-_MAX_SUM, _MAX_SUM)
    return b64encode(total.astype(np.float16).tobytes()).decode()


def find_mix(sketches: Sequence[str]) -> tuple[int, float] | None:
    """Find which of a track's stems is the sum of the others: its place and the correlation.

    Args:
        sketches: of three or more stems.
    """
    content = b"".join(map(b64decode, sketches))
    rows = np.frombuffer(content, np.float16).reshape(len(sketches), _SKETCH).astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    if not norms.all():
        return None
    pairs = (rows @ rows.T) / np.outer(norms, norms) - 2 * np.eye(len(rows))
    others = rows.sum(axis=0) - rows
    scale = norms * np.sqrt(np.einsum("ij,ij->i", others, others))
    scores = np.einsum("ij,ij->i", rows, others) / np.where(scale > 0, scale, np.inf)
    for place in np.flatnonzero((pairs >= MIX_CORRELATION).any(axis=1)):
        scores[place] = _score_among_doubles(rows, pairs[place], place, scores[place])
    best = int(np.argmax(scores))
    return (best, float(scores[best])) if scores[best] >= MIX_CORRELATION else None


def _score_among_doubles(rows: np.ndarray, pairs: np.ndarray, place: int, score: float) -> float:
    """Judge a stem with doubles: by the sum of the others, or of those that are none of them.

    With its doubles among them it must go clearly better with the sum than with any one of them.
    """
    if 1 - score > 0.5 * (1 - pairs.max()):
        score = 0.0
    apart = np.flatnonzero((pairs < MIX_CORRELATION) & (np.arange(len(rows)) != place))
    if len(apart) >= 2:
        score = max(score, _correlation(rows[place], rows[apart].sum(axis=0)))
    return score


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    scale = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / scale) if scale > 0 else 0.0


@lru_cache(maxsize=8)
def _signs(place: int) -> np.ndarray:
    """Draw the signs of a block: (row, projection) float32, the same on every machine."""
    bits = np.random.PCG64(place).random_raw(_SKETCH * _SKETCH_ROWS // 64).view(np.uint8)
    return (1 - 2 * np.unpackbits(bits).astype(np.float32)).reshape(_SKETCH_ROWS, _SKETCH)
