"""Audio inside containers (mp4, m4a, aac, …) through PyAV, on the track's own time line.

An AAC encoder puts about 1,000 to 2,000 samples of padding in front. A file says so in one of two
ways: by an edit list (FFmpeg marks the packets as discarded) or by Apple's ``iTunSMPB`` tag (the
first packet carries a number of samples to skip, and time stamps still count them). An edit list
may also delay the stream. Either way sample 0 here is sample 0 of what was encoded.

Whatever stands in between keeps its place too: where the time stamps of two frames leave a gap (a
recorder was paused, a packet is damaged) it is filled with silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ml.tracks import is_text

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

MAX_S = 6 * 3600.0
"""A longer recording is refused: a header or time stamp that lies, or nothing that is a stem."""
_MAX_PADDING_SAMPLES = 8192
"""A tag that says more than this was cut is not believed."""
_GAP_S = 0.008
"""Time stamps that jump by more leave a gap; some containers round them to ms."""
_FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,eac3,flac,matroska,mov,mp3,mpeg,mpegts,ogg,rm,tta,voc,"
    "w64,wav,webm,wv"
)
"""What FFmpeg may take a file for: nothing that opens other files (playlists, ``ffconcat``)."""
_LENGTH_FORMATS = ("mov", "flac", "matroska", "wav", "w64", "aiff", "caf")
"""Formats whose stated length is a promise and no estimate."""


class ContainerError(ValueError):
    """A container cannot be decoded; the message says why in a few words, without the path."""


@dataclass(frozen=True, kw_only=True)
class ContainerInfo:
    """What a container says about one of its audio streams."""

    rate_hz: int
    channels: int
    duration_s: float | None
    """None: it says nothing, or only an estimate."""


@dataclass(frozen=True, kw_only=True)
class ContainerAudio:
    """One decoded audio stream of a container."""

    waveform: np.ndarray
    """(samples,) float32 mono at ``rate_hz``."""
    rate_hz: int
    """Of the decoded frames."""
    info: ContainerInfo
    lost: int
    """Packets that could not be decoded; silence stands for them."""


@dataclass(kw_only=True)
class _TimeLine:
    """What the packets say about the place of the audio in time (in s; None: nothing)."""

    is_shifted: bool = False
    """Time stamps count samples that the decoder skips (``iTunSMPB``)."""
    end_s: float | None = None
    """End of the last packet."""
    frames: list[np.ndarray] = field(default_factory=list)
    """Decoded audio and the silence in its gaps, (samples,) float32 each."""
    samples: int = 0
    """Of ``frames``."""
    first_s: float = 0.0
    """Time stamp of the first frame."""
    rate_hz: int = 0
    """Rate of the decoded frames (HE-AAC: not the container's)."""
    lost: int = 0
    """Packets that could not be decoded."""


def read_container(path: Path, stream: int, *, ignores_length: bool = False) -> ContainerAudio:
    """Decode one audio stream of a container.

    Args:
        path: the file; it exists.
        stream: index among its audio streams.
        ignores_length: of a WAV: read on to the end of the file, whatever its header says.

    Raises:
        ContainerError: not decodable, longer than ``MAX_S``, or there is no such stream.
    """
    with _opened(path, ignores_length) as container:
        found = _audio_stream(container, stream)
        info = _info(container, found)
        line = _decode(container, found)
        is_mp4 = "mp4" in container.format.name
        tag = container.metadata.get("iTunSMPB", "")
    if not line.frames:
        waveform = np.zeros(0, dtype=np.float32)
    else:
        waveform = np.concatenate(line.frames)
        waveform = _placed(waveform, line, tag) if is_mp4 else waveform
    rate_hz = line.rate_hz or info.rate_hz
    return ContainerAudio(waveform=waveform, rate_hz=rate_hz, info=info, lost=line.lost)


def probe_container(
    path: Path, stream: int, *, counts: bool = False, ignores_length: bool = False
) -> ContainerInfo:
    """Read what one audio stream is, without decoding it; a length that is not said is counted.

    Args:
        path: the file; it exists.
        stream: index among its audio streams.
        counts: count the length in any case: the file is cut.
        ignores_length: as for ``read_container``.

    Raises:
        ContainerError: not a container, or there is no such stream.
    """
    with _opened(path, ignores_length) as container:
        found = _audio_stream(container, stream)
        info = _info(container, found)
        if info.duration_s is not None and not (counts or ignores_length):
            return info
        first_s, end_s = None, 0.0
        for packet in container.demux(found):
            if packet.pts is not None and packet.duration and packet.time_base is not None:
                begin_s = float(packet.pts * packet.time_base)
                first_s = begin_s if first_s is None else first_s
                end_s = max(end_s, begin_s + float(packet.duration * packet.time_base))
        return replace(info, duration_s=end_s - (first_s or 0.0))


@contextmanager
def _opened(path: Path, ignores_length: bool) -> Iterator[InputContainer]:
    """Open a file for FFmpeg: by its whole path, which is no URL whatever stands in it."""
    import av
    from av.error import FFmpegError

    options = {"format_whitelist": _FORMATS} | ({"ignore_length": "1"} if ignores_length else {})
    try:
        with ExitStack() as stack:
            source = str(path.absolute())
            if not is_text(source):  # PyAV takes names in UTF-8 only; bytes have no name
                source = stack.enter_context(path.open("rb"))
            yield stack.enter_context(av.open(source, mode="r", options=options))
    except (FFmpegError, OSError, UnicodeError) as error:
        raise ContainerError(_reason(error)) from None
    except (ArithmeticError, AttributeError, IndexError, MemoryError, TypeError) as error:
        raise ContainerError(f"FFmpeg: damaged ({type(error).__name__})") from None


def _audio_stream(container: InputContainer, index: int) -> av.AudioStream:
    streams = container.streams.audio
    if not 0 <= index < len(streams):
        raise ContainerError(f"it has {len(streams)} audio streams, stream {index} was asked for")
    return streams[index]


def _info(container: InputContainer, stream: av.AudioStream) -> ContainerInfo:
    if stream.codec_context is None or not stream.rate or not stream.channels:
        raise ContainerError("FFmpeg: a codec that it does not know")
    duration_s = None
    if container.format.name.startswith(_LENGTH_FORMATS):
        if stream.duration and stream.time_base:
            duration_s = float(stream.duration * stream.time_base)
        elif container.duration:
            duration_s = container.duration / 1e6
    return ContainerInfo(rate_hz=stream.rate, channels=stream.channels, duration_s=duration_s)


def _decode(container: InputContainer, stream: av.AudioStream) -> _TimeLine:
    from av.error import InvalidDataError

    line = _TimeLine()
    is_first_packet = True
    for packet in container.demux(stream):
        if is_first_packet:
            line.is_shifted = packet.has_sidedata("skip_samples") and not packet.is_discard
            is_first_packet = False
        if packet.pts is not None and packet.duration and packet.time_base is not None:
            line.end_s = float((packet.pts + packet.duration) * packet.time_base)
        try:
            frames = packet.decode()
        except InvalidDataError:
            line.lost += 1
            continue
        for frame in frames:
            _append(line, frame)
    return line


def _append(line: _TimeLine, frame: av.AudioFrame) -> None:
    """Put a frame where its time stamp says, which is behind the last one or after a gap."""
    if not line.frames:
        line.first_s = frame.time or 0.0
        line.rate_hz = frame.sample_rate
    elif frame.sample_rate != line.rate_hz:
        raise ContainerError(f"its rate changes from {line.rate_hz} to {frame.sample_rate} Hz")
    elif frame.time is not None:
        gap = round((frame.time - line.first_s) * line.rate_hz) - line.samples
        if gap > _GAP_S * line.rate_hz:
            _require_short(line, gap)
            line.frames.append(np.zeros(gap, dtype=np.float32))
            line.samples += gap
    line.frames.append(_mono(frame))
    line.samples += frame.samples
    _require_short(line, 0)


def _require_short(line: _TimeLine, more: int) -> None:
    if line.samples + more > MAX_S * line.rate_hz:
        raise ContainerError(f"it lasts over {MAX_S / 3600:.0f} h by its frames or time stamps")


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """Mix the channels of a frame: (samples,) float32, full scale 1.0."""
    values = frame.to_ndarray()
    channels = frame.layout.nb_channels
    if not frame.format.is_planar:
        values = values.reshape(-1, channels).T  # (channel, samples)
    scaled = values.astype(np.float32)
    if values.dtype.kind == "u":
        scaled = (scaled - 128.0) / 128.0
    elif values.dtype.kind == "i":
        scaled /= float(2 ** (8 * values.dtype.itemsize - 1))
    return scaled[0] if channels == 1 else scaled.mean(axis=0, dtype=np.float32)


def _placed(waveform: np.ndarray, line: _TimeLine, tag: str) -> np.ndarray:
    """Put decoded audio on its time line: a delay becomes silence, padding at the end goes."""
    if line.is_shifted:
        return _without_padding(waveform, tag)
    delay = max(0, round(line.first_s * line.rate_hz))
    if delay > MAX_S * line.rate_hz:
        raise ContainerError(f"it begins {line.first_s:.0f} s late by its time stamps")
    if line.end_s is not None:
        length = round(line.end_s * line.rate_hz) - delay
        if 0 < len(waveform) - length <= _MAX_PADDING_SAMPLES:
            waveform = waveform[:length]
    return np.concatenate([np.zeros(delay, dtype=np.float32), waveform]) if delay else waveform


def _without_padding(waveform: np.ndarray, tag: str) -> np.ndarray:
    """Cut to the number of samples in an ``iTunSMPB`` tag: its fourth hexadecimal word."""
    words = tag.split()
    try:
        length = int(words[3], 16) if len(words) > 3 else len(waveform)
    except ValueError:
        return waveform
    believed = 0 < len(waveform) - length <= _MAX_PADDING_SAMPLES
    return waveform[:length] if believed else waveform


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return f"FFmpeg: {text}"
