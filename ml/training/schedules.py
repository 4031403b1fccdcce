"""Schedules as pure functions of the step (Riou et al., section II-D, and the predecessor)."""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, steps: int, warmup_steps: int, peak: float) -> float:
    """Linear warm-up to ``peak``, then a half cosine to 0.

    Args:
        step: 0 … ``steps - 1``; step 0 already learns (``peak / warmup_steps``).
        steps: length of training.
        warmup_steps: length of the warm-up.
        peak: highest rate.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def linear(step: int, *, steps: int, start: float, end: float) -> float:
    """From ``start`` at step 0 to ``end`` at the last step (the EMA rate τ of equation 4)."""
    return start + (end - start) * min(1.0, step / max(1, steps - 1))
