"""A mix as people give it (file, array, several stems) as one waveform."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ml.audio.files import mix_parts, read_audio, resample

Part = str | Path | np.ndarray | tuple[np.ndarray, int]
"""A file; (samples,) or (samples, channel) at the model's rate; or these with their rate in Hz."""
Mix = Part | list[Part]
"""One part, or a list of parts to sum."""


def read_mix(mix: Mix, rate_hz: int) -> np.ndarray:
    """The sum of all parts, shorter ones padded with silence; never clipped.

    Args:
        mix: see ``Mix``.
        rate_hz: rate of the result, and of arrays that come without one.

    Returns:
        (samples,) float32 mono.

    Raises:
        AudioError: a file is missing or cannot be decoded.
        ValueError: an array is empty, not finite, or of another shape; or there are no parts.
    """
    parts = mix if isinstance(mix, list) else [mix]
    if not parts:
        raise ValueError("the mix is an empty list; expected at least one file or array")
    return mix_parts([_waveform(part, rate_hz) for part in parts])


def _waveform(part: Part, rate_hz: int) -> np.ndarray:
    if isinstance(part, (str, Path)):
        return read_audio(part, rate_hz=rate_hz)
    array, from_hz = part if isinstance(part, tuple) else (part, rate_hz)
    array = np.asarray(array)
    if array.ndim not in (1, 2) or not array.size or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"the mix is an array of {array.dtype} with shape {array.shape}; expected floats of "
            f"full scale 1.0, shape (samples,) or (samples, channel)"
        )
    if from_hz <= 0:
        raise ValueError(f"the mix has a rate of {from_hz} Hz; expected more than 0")
    if not np.isfinite(array).all():
        raise ValueError("the mix holds NaN or infinite samples; export it again")
    mono = array.mean(axis=1) if array.ndim == 2 else array
    return resample(np.ascontiguousarray(mono, dtype=np.float32), int(from_hz), rate_hz)
