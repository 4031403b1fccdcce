"""What every reader of a beat activation asks of it."""

from __future__ import annotations

from typing import Any

import numpy as np


def checked_activation(activation: Any) -> np.ndarray:
    """A beat activation as (frame,) float64.

    Args:
        activation: (frame,) probability of a beat in each frame, 0…1; may be empty.

    Raises:
        ValueError: another shape, NaN, infinite, or outside of 0…1; names the first such frame.
    """
    values = np.asarray(activation, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(
            f"the beat activation has shape {values.shape}; expected (frame,): one probability "
            "per frame of one recording"
        )
    is_wrong = ~((values >= 0) & (values <= 1))
    if is_wrong.any():
        frame = int(is_wrong.argmax())
        raise ValueError(
            f"the beat activation is {values[frame]} in frame {frame} ({is_wrong.sum()} of "
            f"{len(values)} frames are like that); expected probabilities from 0 to 1 (logits need "
            "a sigmoid)"
        )
    return values
