"""Audio as browsers play it: 16-bit WAV in the temporary folder, with its waveform at a glance."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Generic, Protocol, TypeVar

import numpy as np
import soundfile

from ml.audio.files import fit_channels, resample

PLAY_RATE_HZ = 44_100
"""Rate of what is served."""
QUERY_RATE_HZ = 16_000
"""Rate of the waveforms that queries are made of."""
PEAKS = 480
"""Parts that a waveform at a glance has."""


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A waveform on disk."""

    duration_s: float
    peaks: tuple[float, ...]
    """(PEAKS,) largest magnitude of equal parts; above 1 where the sound exceeds full scale."""
    served_gain: float
    """Gain of the samples on disk: 1, or what brings the largest peak to full scale."""


def as_played(sound: np.ndarray, rate_hz: int) -> np.ndarray:
    """Resample (samples, channel) to ``PLAY_RATE_HZ``, in one channel or two."""
    sound = fit_channels(sound, min(2, sound.shape[1]))
    columns = [resample(np.ascontiguousarray(column), rate_hz, PLAY_RATE_HZ) for column in sound.T]
    return np.stack(columns, axis=1)


def sum_sounds(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Sum (samples, channel) of different lengths; mono ones sound in all channels."""
    total = np.zeros((0, 1), dtype=np.float32)
    for part in parts:  # one by one: a song's stems together are large
        channels = max(total.shape[1], part.shape[1])
        total = np.pad(fit_channels(total, channels), ((0, max(0, len(part) - len(total))), (0, 0)))
        total[: len(part)] += fit_channels(part, channels)
    return total


def write_sound(sound: np.ndarray, path: Path) -> Sound:
    """Write a sound as 16-bit WAV; one that exceeds full scale is turned down, not clipped.

    Args:
        sound: (samples, channel) float32 at ``PLAY_RATE_HZ``.
        path: the new file.
    """
    largest = float(np.abs(sound).max(initial=0.0))
    gain = 1.0 if largest <= 1 else 1 / largest
    samples = sound if gain == 1 else sound * np.float32(gain)
    soundfile.write(path, samples, PLAY_RATE_HZ, subtype="PCM_16", format="WAV")
    return Sound(
        duration_s=len(sound) / PLAY_RATE_HZ, peaks=waveform_peaks(sound), served_gain=gain
    )


def waveform_peaks(sound: np.ndarray, parts: int = PEAKS) -> tuple[float, ...]:
    """Find the largest magnitude in ``parts`` equal parts of (samples, channel), to 3 digits."""
    magnitude = np.abs(sound).max(axis=1, initial=0.0)  # (samples,)
    edges = np.linspace(0, len(magnitude), parts + 1).astype(np.int64)
    peaks = (magnitude[a:b].max(initial=0.0) for a, b in itertools.pairwise(edges))
    return tuple(round(float(peak), 3) for peak in peaks)


def cut_sound(wav: Path, start_s: float, duration_s: float | None) -> IO[bytes]:
    """Cut a piece out of a file of ``write_sound``; there is nothing behind its end.

    Returns:
        A WAV file without a name, open at its beginning; it goes when it is closed.

    Raises:
        FileNotFoundError: it was removed.
    """
    with wav.open("rb") as opened, soundfile.SoundFile(opened) as file:
        file.seek(min(round(start_s * file.samplerate), file.frames))
        frames = -1 if duration_s is None else round(duration_s * file.samplerate)
        samples = file.read(frames, dtype="int16", always_2d=True)
    piece = tempfile.TemporaryFile(dir=wav.parent)  # noqa: SIM115 (the answer closes it)
    soundfile.write(piece, samples, file.samplerate, subtype="PCM_16", format="WAV")
    piece.seek(0)
    return piece


class Kept(Protocol):
    """What a ``SoundCache`` keeps."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files, removed with it."""
        ...


T = TypeVar("T", bound=Kept)


class SoundCache(Generic[T]):
    """The newest things with files, bounded in number and size; any thread may use it.

    Args:
        most: how many.
        most_bytes: size of all their files; the newest stays even if it is larger.
    """

    def __init__(self, most: int, most_bytes: int):
        self._most, self._most_bytes = most, most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._bytes = 0

    def get(self, name: str) -> T | None:
        """Give what is kept under a name; it becomes the newest."""
        with self._lock:
            if name not in self._kept:
                return None
            self._kept.move_to_end(name)
            return self._kept[name][0]

    def put(self, name: str, thing: T) -> T:
        """Keep something; what was not used for longest goes, until the rest is within bounds."""
        size = sum(path.stat().st_size for path in thing.paths)
        with self._lock:
            if name in self._kept:  # two made the same at once: the first stays
                first = self._kept[name][0]
                _remove(tuple(path for path in thing.paths if path not in first.paths))
                return first
            self._kept[name] = (thing, size)
            self._bytes += size
            while len(self._kept) > 1 and self._is_over():
                _, (old, old_size) = self._kept.popitem(last=False)
                self._bytes -= old_size
                _remove(old.paths)
        return thing

    @property
    def bytes(self) -> int:
        """Size of all files kept."""
        return self._bytes

    def _is_over(self) -> bool:
        return len(self._kept) > self._most or self._bytes > self._most_bytes


def _remove(paths: tuple[Path, ...]) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
