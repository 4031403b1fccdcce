"""Audio files as waveforms: float32, mono, at the rate that is asked for.

libsndfile reads wav, flac, ogg and mp3 (without the encoder's padding), ``ml.audio.containers``
everything else (m4a, mp4, aac). Mono is the mean of the channels; rates are changed by soxr's HQ
band-limited filter, so that n samples become round(n · new / old). Nothing here writes audio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from ml.tracks import Stem

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac"}
    | {".aif", ".aiff", ".caf", ".w64", ".rf64"}
)
"""What a corpus reader takes for audio, in lower case."""

CONTAINER_SUFFIXES = frozenset((".m4a", ".mp4", ".aac"))
"""What libsndfile need not be asked about."""


class AudioError(ValueError):
    """An audio file is missing, unreadable, empty, or holds NaN or infinite samples."""


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a file says about itself."""

    rate_hz: int
    """Sampling rate of the file."""
    channels: int
    """Number of channels."""
    duration_s: float
    """Length in s."""


def read_stem(stem: Stem, rate_hz: int = 16000) -> np.ndarray:
    """A stem as it sounds in its track.

    Args:
        stem: its files are summed, shorter ones padded with silence at the end.
        rate_hz: rate of the result.

    Returns:
        (samples,) float32 mono, with ``stem.start_s`` of silence in front; the sum is not clipped.

    Raises:
        AudioError: one of the files cannot be used (see ``read_audio``).
    """
    parts = [read_audio(path, rate_hz=rate_hz, stream=stem.stream) for path in stem.files]
    return mix_parts(parts, round(stem.start_s * rate_hz))


def mix_parts(parts: Sequence[np.ndarray], start_samples: int = 0) -> np.ndarray:
    """Sum waveforms of different lengths, with silence in front: (samples,) float32."""
    if len(parts) == 1 and start_samples == 0:
        return parts[0]
    longest = max((len(part) for part in parts), default=0)
    total = np.zeros(start_samples + longest, dtype=np.float32)
    for part in parts:
        total[start_samples : start_samples + len(part)] += part
    return total


def read_audio(path: str | Path, *, rate_hz: int, stream: int | None = None) -> np.ndarray:
    """A whole file.

    Args:
        path: the file.
        rate_hz: rate of the result.
        stream: index among the audio streams of a container; None: the first.

    Returns:
        (samples,) float32 mono (mean of the channels) at ``rate_hz``; full scale is 1.0.

    Raises:
        AudioError: the file is missing, empty, cannot be decoded, lacks that stream, or holds NaN
            or infinite samples; names the file and what to do.
    """
    path = Path(path)
    waveform, found_hz = _decode(path, stream)
    if not waveform.size:
        raise AudioError(f"{path} holds no samples; replace it, or take it out of the corpus")
    finite = np.isfinite(waveform)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise AudioError(
            f"{path} holds NaN or infinite samples ({bad.size} of {waveform.size}, the first at "
            f"{bad[0] / found_hz:.3f} s); export it again, or take it out of the corpus"
        )
    return resample(waveform, found_hz, rate_hz)


def resample(waveform: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Band-limited change of rate: (samples,) → (round(samples · to_hz / from_hz),) float32."""
    if from_hz == to_hz:
        return waveform
    import soxr  # a box that only trains has none

    return soxr.resample(waveform, from_hz, to_hz, quality="HQ")


def probe(path: str | Path, stream: int | None = None) -> AudioInfo:
    """Rate, channels and length of a file, without decoding it.

    Raises:
        AudioError: the file is missing, empty or not audio, or lacks that stream.
    """
    path = Path(path)
    _require_file(path)
    if _for_libsndfile(path, stream):
        try:
            info = soundfile.info(str(path))
        except soundfile.LibsndfileError:
            pass
        else:
            return AudioInfo(
                rate_hz=info.samplerate,
                channels=info.channels,
                duration_s=info.frames / info.samplerate,
            )
    from ml.audio.containers import ContainerError, probe_container

    try:
        rate_hz, channels, duration_s = probe_container(path, stream or 0)
    except ContainerError as error:
        raise _undecodable(path, str(error)) from None
    return AudioInfo(rate_hz=rate_hz, channels=channels, duration_s=duration_s)


def _decode(path: Path, stream: int | None) -> tuple[np.ndarray, int]:
    """(samples,) float32 mono at the file's own rate, and that rate in Hz."""
    _require_file(path)
    if _for_libsndfile(path, stream):
        try:
            with soundfile.SoundFile(str(path)) as file:
                # 16-bit samples stay integers until they are mixed: five times less to write.
                kind = "int16" if file.subtype == "PCM_16" else "float32"
                return _mono(file.read(dtype=kind)), file.samplerate
        except soundfile.LibsndfileError:
            pass  # a wrong suffix or a codec that only FFmpeg knows
    from ml.audio.containers import ContainerError, read_container

    try:
        return read_container(path, stream or 0)
    except ContainerError as error:
        raise _undecodable(path, str(error)) from None


def _for_libsndfile(path: Path, stream: int | None) -> bool:
    return not stream and path.suffix.lower() not in CONTAINER_SUFFIXES


def _mono(waveform: np.ndarray) -> np.ndarray:
    """(samples,) or (samples, channel), float32 or int16 → (samples,) float32."""
    full_scale = 32768 if waveform.dtype == np.int16 else 1
    if waveform.ndim == 1 and full_scale == 1:
        return waveform
    columns = np.atleast_2d(waveform.T)  # (channel, samples)
    total = columns[0].astype(np.float32)
    for column in columns[1:]:
        total += column
    total /= np.float32(full_scale * len(columns))
    return total


def _require_file(path: Path) -> None:
    remedy = "correct the path, or take it out of the corpus"
    if path.is_dir():
        raise AudioError(f"{path} is a folder, expected an audio file; {remedy}")
    if not path.is_file():
        raise AudioError(f"{path} does not exist; {remedy}")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes); replace it, or take it out of the corpus")


def _undecodable(path: Path, reason: str) -> AudioError:
    return AudioError(
        f"{path} cannot be decoded ({reason}); convert it to wav or flac, or take it out of the "
        "corpus"
    )
