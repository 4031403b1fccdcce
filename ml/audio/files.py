"""Audio files as waveforms: whole, float32, mono, at the rate that is asked for; or a piece.

libsndfile reads wav, flac, ogg and mp3 (without the encoder's padding), ``ml.audio.containers``
everything else (m4a, mp4, aac), and what libsndfile cannot read to its end. Mono is the mean of the
channels; rates are changed by soxr's HQ band-limited filter, so that n samples become
round(n · new / old). A piece (``read_window``) has the file's own rate and channels. Nothing here
writes audio.

No header is believed: what was decoded is compared with what the file promises
(``ml.audio.headers``), and a file that is shorter has a ``problem``. It is used all the same where
at least ``USABLE_SHARE`` of it is there; whoever scans leaves out the others.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import cast

import numpy as np
import soundfile

from ml.audio.headers import Header, read_header
from ml.tracks import Stem

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac"}
    | {".aif", ".aiff", ".caf", ".w64", ".rf64"}
)
"""What a corpus reader takes for audio, in lower case."""

CONTAINER_SUFFIXES = frozenset((".m4a", ".mp4", ".aac"))
"""What libsndfile need not be asked about."""
USABLE_SHARE = 0.9
"""A stem that holds less of its promised length is left out."""
MIN_RATE_HZ, MAX_RATE_HZ = 2_000, 768_000
"""Rates of recordings; a header with another one is wrong."""
_SHORT_S = 0.2
"""A container may promise so much more than it holds: padding is counted by some."""
_BLOCK_SAMPLES = 1 << 18
_REPLACE = "copy or download it again, or take it out of the corpus"
_DAMAGED = (soundfile.LibsndfileError, ArithmeticError, MemoryError, OSError, ValueError)
"""What libsndfile and its binding raise for files that they cannot read and headers that lie."""
_log = logging.getLogger(__name__)


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


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A decoded file."""

    waveform: np.ndarray
    """(samples,) float32 mono at the rate that was asked for; full scale is 1.0."""
    info: AudioInfo
    """Of the file; its length is that of what was decoded."""
    share: float
    """How much of its promised length it holds."""
    problem: str | None
    """What is wrong with it, one sentence that names it."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """What a decoder gives: ``Decoded`` at the file's own rate, with a problem without its path."""

    waveform: np.ndarray
    rate_hz: int
    """Of the waveform (HE-AAC: not that of the file)."""
    info: AudioInfo
    share: float
    problem: str | None


def read_stem(stem: Stem, rate_hz: int = 16000) -> np.ndarray:
    """Decode a stem as it sounds in its track.

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
    """Decode a whole file; what it lacks of its promised length is logged.

    Args:
        path: the file.
        rate_hz: rate of the result.
        stream: index among the audio streams of a container; None: the first.

    Returns:
        (samples,) float32 mono (mean of the channels) at ``rate_hz``; full scale is 1.0.

    Raises:
        AudioError: as ``decode_audio``.
    """
    decoded = decode_audio(path, rate_hz=rate_hz, stream=stream)
    if decoded.problem:
        _log.warning("%s", decoded.problem)
    return decoded.waveform


def decode_audio(path: str | Path, *, rate_hz: int, stream: int | None = None) -> Decoded:
    """Decode a whole file, and compare it with what it promises.

    Args:
        path: the file.
        rate_hz: rate of the waveform.
        stream: index among the audio streams of a container; None: the first.

    Raises:
        AudioError: the file is missing, empty, cannot be decoded, lacks that stream, says a rate or
            length that no recording has, or holds NaN or infinite samples; names the file and what
            to do.
    """
    path = Path(path)
    raw = _decode_raw(path, stream)
    if not raw.waveform.size:
        raise AudioError(f"{path} holds no samples; replace it, or take it out of the corpus")
    _require_finite(path, raw.waveform, raw.rate_hz)
    waveform = resample(raw.waveform, raw.rate_hz, rate_hz)
    if waveform is not raw.waveform:
        _require_finite(path, waveform, rate_hz)  # sums in the filter may overflow
    return Decoded(
        waveform=waveform,
        info=raw.info,
        share=raw.share,
        problem=None if raw.problem is None else f"{path} {raw.problem}",
    )


def read_window(
    path: str | Path, start_s: float, duration_s: float, *, stream: int | None = None
) -> tuple[np.ndarray, int]:
    """Decode part of a file at its own rate.

    What libsndfile reads is sought. A container, and what libsndfile cannot seek in, is decoded
    whole and comes as mono.

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
    sought = None
    if _is_for_libsndfile(path, stream, header := _checked_header(path)) and not header.pieces:
        try:
            sought = _seek(path, start_s, duration_s)
        except AudioError:
            raise
        except _DAMAGED:
            pass  # a wrong suffix or a codec that only FFmpeg knows
    if sought is None:
        raw = _decode_raw(path, stream)
        first = round(start_s * raw.rate_hz)
        sought = _cut(raw.waveform[:, None], first, duration_s, raw.rate_hz), raw.rate_hz
    if not np.isfinite(sought[0]).all():
        raise AudioError(f"{path} holds NaN or infinite samples; export it again")
    return sought


def fit_channels(audio: np.ndarray, channels: int) -> np.ndarray:
    """Make (samples, any) to (samples, channels): mono in all of them, others as their mean."""
    if audio.shape[1] == channels:
        return audio
    mono = audio.mean(axis=1, dtype=np.float32, keepdims=True)
    return np.repeat(mono, channels, axis=1)


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
    header = _checked_header(path)
    if _is_for_libsndfile(path, stream, header):
        try:
            frames = rate_hz = channels = 0
            for file in _opened(path, header):
                with file:
                    _require_plausible(path, file.samplerate)
                    frames += file.frames
                    rate_hz, channels = file.samplerate, file.channels
            return AudioInfo(rate_hz=rate_hz, channels=channels, duration_s=frames / rate_hz)
        except AudioError:
            raise
        except _DAMAGED:
            pass
    from ml.audio.containers import ContainerError, probe_container

    try:
        found = probe_container(
            path, stream or 0, counts=header.is_cut, ignores_length=header.is_longer
        )
    except ContainerError as error:
        raise _undecodable(path, str(error)) from None
    _require_plausible(path, found.rate_hz)
    return AudioInfo(
        rate_hz=found.rate_hz, channels=found.channels, duration_s=found.duration_s or 0.0
    )


def _is_for_libsndfile(path: Path, stream: int | None, header: Header | None = None) -> bool:
    """Tell whether libsndfile reads all of a file, or should be asked first."""
    if stream or path.suffix.lower() in CONTAINER_SUFFIXES:
        return False
    return (header or read_header(path)).has_length


def _decode_raw(path: Path, stream: int | None) -> Raw:
    """Decode by libsndfile if the header can be believed; by FFmpeg if not, or if it reads less.

    Raises:
        AudioError: as ``decode_audio``, but for what only all samples show.
    """
    header = _checked_header(path)
    first = reason = None
    if _is_for_libsndfile(path, stream, header):
        try:
            first = _decode_by_libsndfile(path, header)
        except AudioError:
            raise
        except _DAMAGED as error:
            reason = str(error).rstrip(
                "."
            )  # a wrong suffix, a codec that only FFmpeg knows, damage
        if first is not None and first.waveform.size and first.share == 1.0:
            return first
    try:
        second = _decode_by_ffmpeg(path, stream, header, reason)
    except AudioError:
        if first is None or not first.waveform.size:
            raise
        return first
    return second if first is None or len(second.waveform) > len(first.waveform) else first


def _decode_by_libsndfile(path: Path, header: Header) -> Raw:
    blocks: list[np.ndarray] = []
    promised = rate_hz = channels = 0
    for file in _opened(path, header):
        with file:
            _require_plausible(path, file.samplerate)
            # 16-bit samples stay integers until they are mixed: five times less to write.
            kind = "int16" if file.subtype == "PCM_16" else "float32"
            size = _BLOCK_SAMPLES
            while size == _BLOCK_SAMPLES:  # believes no header's size
                block = file.read(_BLOCK_SAMPLES, dtype=kind)
                size = len(block)
                blocks.append(_mono(block))
                _require_short(path, len(blocks) * _BLOCK_SAMPLES / file.samplerate)
            promised += file.frames
            rate_hz, channels = file.samplerate, file.channels
    waveform = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    info = AudioInfo(rate_hz=rate_hz, channels=channels, duration_s=len(waveform) / rate_hz)
    share = min(header.share, len(waveform) / promised if promised > 0 else 1.0)
    return _raw(waveform, info, share, header)


def _seek(path: Path, start_s: float, duration_s: float) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(_name_for_libsndfile(path)) as file:
        rate_hz = file.samplerate
        _require_plausible(path, rate_hz)
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


def _name_for_libsndfile(path: Path) -> str:
    """Name a file by its bytes, which may be no UTF-8; soundfile takes them, its types do not."""
    return cast("str", os.fsencode(path))


def _opened(path: Path, header: Header) -> Iterator[soundfile.SoundFile]:
    """Open a file, or each of the files that were joined in it."""
    if not header.pieces:
        yield soundfile.SoundFile(_name_for_libsndfile(path))
        return
    content = path.read_bytes()
    for begin, end in header.pieces:
        yield soundfile.SoundFile(BytesIO(content[begin:end]))


def _decode_by_ffmpeg(path: Path, stream: int | None, header: Header, reason: str | None) -> Raw:
    """Decode by FFmpeg; ``reason``: why libsndfile could not, said of a file that is not whole."""
    from ml.audio.containers import ContainerError, read_container

    try:
        found = read_container(path, stream or 0, ignores_length=header.is_longer)
    except ContainerError as error:
        raise _undecodable(path, str(error)) from None
    _require_plausible(path, found.rate_hz)
    lasts_s = len(found.waveform) / found.rate_hz
    info = AudioInfo(rate_hz=found.info.rate_hz, channels=found.info.channels, duration_s=lasts_s)
    said_s = None if header.is_longer else found.info.duration_s
    promised_s = header.promised_s or said_s or lasts_s
    share = min(1.0, header.share)
    if promised_s - lasts_s > _SHORT_S:
        share = min(share, lasts_s / promised_s)
    raw = _raw(found.waveform, info, share, header, rate_hz=found.rate_hz)
    if raw.problem is None and found.lost:
        why = f" ({reason})" if reason else ""
        problem = f"is damaged: {found.lost} of its packets cannot be decoded{why}; {_REPLACE}"
        raw = replace(raw, problem=problem)
    return raw


def _raw(
    waveform: np.ndarray,
    info: AudioInfo,
    share: float,
    header: Header,
    rate_hz: int | None = None,
) -> Raw:
    problem = None
    if share < 1.0:
        problem = (
            f"holds {info.duration_s:.1f} s of the {info.duration_s / max(share, 1e-9):.1f} s that "
            f"its header promises: it was cut off; {_REPLACE}"
        )
    elif not header.has_end:
        problem = (
            f"ends after {info.duration_s:.1f} s without its end mark: perhaps it was cut off; "
            f"{_REPLACE}"
        )
    return Raw(
        waveform=waveform, rate_hz=rate_hz or info.rate_hz, info=info, share=share, problem=problem
    )


def _mono(waveform: np.ndarray) -> np.ndarray:
    """Mix (samples,) or (samples, channel), float32 or int16, to (samples,) float32."""
    full_scale = 32768 if waveform.dtype == np.int16 else 1
    if waveform.ndim == 1 and full_scale == 1:
        return waveform
    columns = np.atleast_2d(waveform.T)  # (channel, samples)
    total = columns[0].astype(np.float32)
    for column in columns[1:]:
        total += column
    total /= np.float32(full_scale * len(columns))
    return total


def _checked_header(path: Path) -> Header:
    """Read what a file promises.

    Raises:
        AudioError: it is no regular file, empty or not readable.
    """
    remedy = "correct the path, or take it out of the corpus"
    try:
        state = _state(path)
        if state and S_ISDIR(state.st_mode):
            raise AudioError(f"{path} is a folder, expected an audio file; {remedy}")
        if not (state and S_ISREG(state.st_mode)):
            kind = "is no regular file" if os.path.lexists(path) else "does not exist"
            raise AudioError(f"{path} {kind}; {remedy}")
        if state.st_size == 0:
            raise AudioError(f"{path} is empty (0 bytes); replace it, or take it out of the corpus")
        return read_header(path)
    except OSError as error:
        raise AudioError(f"{path} cannot be read ({error.strerror}); {remedy}") from None


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _require_plausible(path: Path, rate_hz: int) -> None:
    """Refuse a rate that no recording has.

    Raises:
        AudioError: it is one.
    """
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"{path} says that it has {rate_hz} samples a second, expected {MIN_RATE_HZ} to "
            f"{MAX_RATE_HZ}; its header is wrong: export it again, or take it out of the corpus"
        )


def _require_short(path: Path, lasts_s: float) -> None:
    from ml.audio.containers import MAX_S

    if lasts_s > MAX_S:
        raise AudioError(
            f"{path} lasts over {MAX_S / 3600:.0f} h; cut it, or take it out of the corpus"
        )


def _require_finite(path: Path, waveform: np.ndarray, rate_hz: int) -> None:
    if not np.isfinite(waveform).all():
        bad = np.flatnonzero(~np.isfinite(waveform))
        raise AudioError(
            f"{path} holds NaN or infinite samples ({bad.size} of {waveform.size}, the first at "
            f"{bad[0] / rate_hz:.3f} s); export it again, or take it out of the corpus"
        )


def _undecodable(path: Path, reason: str) -> AudioError:
    return AudioError(
        f"{path} cannot be decoded ({reason}); convert it to wav or flac, or take it out of the "
        "corpus"
    )
