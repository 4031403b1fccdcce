"""A piece of an audio file at its own rate, with its channels.

What libsndfile reads (wav, flac, ogg, mp3) is sought. A container (m4a, mp4, aac) is decoded whole
and comes as mono, as ``ml.audio.containers`` gives it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from ml.audio.files import CONTAINER_SUFFIXES, AudioError, probe


def read_window(
    path: str | Path, start_s: float, duration_s: float, *, stream: int | None = None
) -> tuple[np.ndarray, int]:
    """Part of a file at its own rate.

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
    rate_hz = probe(path, stream).rate_hz
    first, samples = round(start_s * rate_hz), round(duration_s * rate_hz)
    if not stream and path.suffix.lower() not in CONTAINER_SUFFIXES:
        try:
            return _checked(path, _seek(path, first, samples)), rate_hz
        except soundfile.LibsndfileError:
            pass  # a wrong suffix or a codec that only FFmpeg knows
    return _checked(path, _decode(path, stream or 0, first, samples)), rate_hz


def fit_channels(audio: np.ndarray, channels: int) -> np.ndarray:
    """(samples, any) → (samples, channels): mono in all of them, others as their mean."""
    if audio.shape[1] == channels:
        return audio
    mono = audio.mean(axis=1, dtype=np.float32, keepdims=True)
    return np.repeat(mono, channels, axis=1)


def _seek(path: Path, first: int, samples: int) -> np.ndarray:
    with soundfile.SoundFile(str(path)) as file:
        window = np.zeros((samples, file.channels), dtype=np.float32)
        begin, end = max(first, 0), min(first + samples, file.frames)
        if begin < end:
            file.seek(begin)
            found = file.read(end - begin, dtype="float32", always_2d=True)
            window[begin - first : begin - first + len(found)] = found
    return window


def _decode(path: Path, stream: int, first: int, samples: int) -> np.ndarray:
    from ml.audio.containers import ContainerError, read_container

    try:
        waveform, _ = read_container(path, stream)
    except ContainerError as error:
        raise AudioError(f"{path} cannot be decoded ({error}); convert it to wav or flac") from None
    window = np.zeros((samples, 1), dtype=np.float32)
    begin, end = max(first, 0), min(first + samples, len(waveform))
    if begin < end:
        window[begin - first : end - first, 0] = waveform[begin:end]
    return window


def _checked(path: Path, window: np.ndarray) -> np.ndarray:
    if not np.isfinite(window).all():
        raise AudioError(f"{path} holds NaN or infinite samples; export it again")
    return window
