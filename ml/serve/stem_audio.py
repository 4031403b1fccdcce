"""Stems of the table as browsers play them: decoded once, kept while they are asked for."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from ml.artifacts import fingerprint
from ml.audio.files import AudioError, probe
from ml.music.fit import Music, stretched
from ml.retrieval.queries.excerpts import safe_name
from ml.retrieval.queries.stem_files import StemFiles, stem_window
from ml.serve.limits import ServeLimits
from ml.serve.sounds import PLAY_RATE_HZ, Sound, SoundCache, as_played, write_sound
from ml.tracks import Stem

_LOCKS = 16
_MOST_STEMS = 10_000


@dataclass(frozen=True, kw_only=True)
class ServedStem:
    """A stem that can be heard."""

    version: str
    """Changes with its files: 64 hexadecimal digits."""
    sound: Sound
    wav: Path
    """What is played."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files."""
        return (self.wav,)


@dataclass(frozen=True, kw_only=True)
class StemFile:
    """What a person gets to keep."""

    path: Path
    name: str
    """Safe as a file name everywhere."""
    version: str


class StemAudio:
    """Decodes stems and keeps the newest of them."""

    def __init__(self, folder: Path, files: StemFiles, limits: ServeLimits):
        self._folder, self._files = folder, files
        self._kept: SoundCache[ServedStem] = SoundCache(_MOST_STEMS, limits.stem_bytes)
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))

    def music(self, row: Mapping[str, Any]) -> Music:
        """Give tempo, beats and key of a stem, as far as they are known."""
        return self._files.music(row)

    def sound(self, row: Mapping[str, Any], speed: float = 1.0, semitones: int = 0) -> ServedStem:
        """Decode a stem unless it is kept; requests for the same one wait for each other.

        Args:
            row: of the table.
            speed: how much faster it is played.
            semitones: how much higher.

        Raises:
            HTTPException: its files are gone or cannot be decoded.
        """
        stem = self._files.stem(row)
        version = _version(row["key"], stem, speed, semitones)
        with self._locks[int(version[:8], 16) % _LOCKS]:
            if (kept := self._kept.get(version)) is not None:
                return kept
            try:
                samples = stretched(read_sound(stem), PLAY_RATE_HZ, speed, semitones)
            except AudioError as error:
                sentence = f"stem {row['key']!r} cannot be heard: {error}"
                raise HTTPException(404, sentence) from None
            handle, path = tempfile.mkstemp(prefix="stem-", suffix=".wav", dir=self._folder)
            os.close(handle)
            wav = Path(path)
            sound = write_sound(samples, wav)
            return self._kept.put(version, ServedStem(version=version, sound=sound, wav=wav))

    def file(self, row: Mapping[str, Any]) -> StemFile:
        """Give the recording itself where the stem is one whole file, else what is played.

        Raises:
            HTTPException: its files are gone or cannot be decoded.
        """
        stem = self._files.stem(row)
        name = safe_name(row["corpus"], row["track_id"], row["label"]) or "stem"
        is_whole = len(stem.files) == 1 and stem.stream is None and not stem.start_s
        if is_whole and stem.files[0].is_file():
            path = stem.files[0]
            version = _version(f"file {row['key']}", stem)
            return StemFile(path=path, name=f"{name}{path.suffix.lower()}", version=version)
        served = self.sound(row)
        return StemFile(path=served.wav, name=f"{name}.wav", version=served.version)


def read_sound(stem: Stem) -> np.ndarray:
    """Read a stem as it sounds in its track, its files summed: (samples, channel) as played.

    Raises:
        AudioError: one of the files cannot be used.
    """
    if not stem.files:
        raise AudioError(f"the table names no files of stem {stem.stem_id}; embed its corpus again")
    lengths_s = [probe(path, stem.stream).duration_s for path in stem.files]
    return as_played(*stem_window(stem, 0.0, stem.start_s + max(lengths_s)))


def _version(key: str, stem: Stem, *played: float) -> str:
    states = [path.stat() for path in stem.files if path.is_file()]
    stamps = [(str(path), stem.stream, stem.start_s) for path in stem.files]
    times = [(state.st_size, state.st_mtime_ns) for state in states]
    return fingerprint([key, played, stamps, times])
