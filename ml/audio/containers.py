"""Audio inside containers (mp4, m4a, aac, …) through PyAV, on the track's own time line.

An AAC encoder puts about 1,000 to 2,000 samples of padding in front. A file says so in one of two
ways: by an edit list (FFmpeg marks the packets as discarded) or by Apple's ``iTunSMPB`` tag (the
first packet carries a number of samples to skip, and time stamps still count them). An edit list
may also delay the stream. Either way sample 0 here is sample 0 of what was encoded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

_MAX_PADDING_SAMPLES = 8192
"""A tag that says more than this was cut is not believed."""


class ContainerError(ValueError):
    """A container cannot be decoded; the message says why in a few words, without the path."""


@dataclass(kw_only=True)
class _TimeLine:
    """What the packets say about the place of the audio in time (in s; None: nothing)."""

    is_shifted: bool = False
    """Time stamps count samples that the decoder skips (``iTunSMPB``)."""
    end_s: float | None = None
    """End of the last packet."""
    frames: list[np.ndarray] = field(default_factory=list)
    """Decoded audio, (samples,) float32 each."""
    first_s: float = 0.0
    """Time stamp of the first frame."""
    rate_hz: int = 0
    """Rate of the decoded frames (HE-AAC: not the container's)."""


def read_container(path: Path, stream: int) -> tuple[np.ndarray, int]:
    """One audio stream of a container.

    Args:
        path: the file; it exists.
        stream: index among its audio streams.

    Returns:
        (samples,) float32 mono at the file's own rate, and that rate in Hz.

    Raises:
        ContainerError: not decodable, or there is no such stream.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            line = _decode(container, _audio_stream(container, stream))
            is_mp4 = "mp4" in container.format.name
            tag = container.metadata.get("iTunSMPB", "")
    except (FFmpegError, UnicodeDecodeError) as error:
        raise ContainerError(_reason(error)) from None
    if not line.frames:
        return np.zeros(0, dtype=np.float32), line.rate_hz or 1
    waveform = np.concatenate(line.frames)
    return (_placed(waveform, line, tag) if is_mp4 else waveform), line.rate_hz


def probe_container(path: Path, stream: int) -> tuple[int, int, float]:
    """Rate in Hz, channels and length in s of one audio stream, without decoding it.

    Raises:
        ContainerError: not a container, or there is no such stream.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            found = _audio_stream(container, stream)
            if found.duration is not None and found.time_base is not None:
                duration_s = float(found.duration * found.time_base)
            else:
                duration_s = (container.duration or 0) / 1e6
            return found.rate, found.channels, duration_s
    except (FFmpegError, UnicodeDecodeError) as error:
        raise ContainerError(_reason(error)) from None


def _audio_stream(container: InputContainer, index: int) -> av.AudioStream:
    streams = container.streams.audio
    if not 0 <= index < len(streams):
        raise ContainerError(f"it has {len(streams)} audio streams, stream {index} was asked for")
    return streams[index]


def _decode(container: InputContainer, stream: av.AudioStream) -> _TimeLine:
    line = _TimeLine()
    is_first_packet = True
    for packet in container.demux(stream):
        if is_first_packet:
            line.is_shifted = packet.has_sidedata("skip_samples") and not packet.is_discard
            is_first_packet = False
        if packet.pts is not None and packet.duration and packet.time_base is not None:
            line.end_s = float((packet.pts + packet.duration) * packet.time_base)
        for frame in packet.decode():
            if not line.frames:
                line.first_s = frame.time or 0.0
                line.rate_hz = frame.sample_rate
            line.frames.append(_mono(frame))
    return line


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """Mean of the channels of a frame: (samples,) float32, full scale 1.0."""
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
