"""A piece of an audio file at its own rate, with its channels.

What libsndfile reads (wav, flac, ogg, mp3) is sought. A container (m4a, mp4, aac) is decoded whole
and comes as mono, as ``ml.audio.containers`` gives it; so is what libsndfile cannot seek in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from ml.audio.files import (
    DAMAGED,
    AudioError,
    checked_header,
    decode_raw,
    is_for_libsndfile,
    name_for_libsndfile,
    require_plausible,
)


def read_window(
    path: str | Path, start_s: float, duration_s: float, *, stream: int | None = None
) -> tuple[np.ndarray, int]:
    """Decode part of a file at its own rate.

    Args:
        path: the file.
        start_s: where the piece begins; before 0 and behind the end there is silence.
        duration_s: how long it is.
        stream: index among the audio streams of a container; None: the first.

    Returns:
        (samples, channel) float32 of full scale 1.0, ``round(duration_s · rate)`` samples, and the
        rate in Hz.

    Raises:
        AudioError: the file is missing, cannot be decoded, lacks that stream, or holds NaN or
            infinite samples in this piece.
    """
    path = Path(path)
    if is_for_libsndfile(path, stream, header := checked_header(path)) and not header.pieces:
        try:
            window, rate_hz = _seek(path, start_s, duration_s)
        except AudioError:
            raise
        except DAMAGED:
            pass  # a wrong suffix or a codec that only FFmpeg knows
        else:
            return _checked(path, window), rate_hz
    raw = decode_raw(path, stream)
    window = _cut(raw.waveform[:, None], round(start_s * raw.rate_hz), duration_s, raw.rate_hz)
    return _checked(path, window), raw.rate_hz


def fit_channels(audio: np.ndarray, channels: int) -> np.ndarray:
    """Make (samples, any) to (samples, channels): mono in all of them, others as their mean."""
    if audio.shape[1] == channels:
        return audio
    mono = audio.mean(axis=1, dtype=np.float32, keepdims=True)
    return np.repeat(mono, channels, axis=1)


def _seek(path: Path, start_s: float, duration_s: float) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(name_for_libsndfile(path)) as file:
        rate_hz = file.samplerate
        require_plausible(path, rate_hz)
        first, samples = round(start_s * rate_hz), round(duration_s * rate_hz)
        begin, end = max(first, 0), min(first + samples, file.frames)
        there = np.zeros((0, file.channels), dtype=np.float32)
        if begin < end:
            file.seek(begin)
            there = file.read(end - begin, dtype="float32", always_2d=True)
        return _cut(there, first - begin, duration_s, rate_hz), rate_hz


def _cut(audio: np.ndarray, first: int, duration_s: float, rate_hz: int) -> np.ndarray:
    """Cut a window out of (samples, channel) that begins at a sample, with silence around it."""
    window = np.zeros((round(duration_s * rate_hz), audio.shape[1]), dtype=np.float32)
    begin, end = max(first, 0), min(first + len(window), len(audio))
    if begin < end:
        window[begin - first : end - first] = audio[begin:end]
    return window


def _checked(path: Path, window: np.ndarray) -> np.ndarray:
    if not np.isfinite(window).all():
        raise AudioError(f"{path} holds NaN or infinite samples; export it again")
    return window
