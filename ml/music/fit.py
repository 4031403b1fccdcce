"""A stem brought to a mix: at its tempo, on its beat and, where asked, in its key.

A tempo heard as 60 may as well be 120, so the stem is played by the octave of the ratio that
changes it least. What would have to change by more than ``MOST_SPEED`` stays as it is, and so does
what has no steady tempo; the plan says why. Stretching and transposing is Signalsmith Stretch
(``python_stretch``, MIT licence), which makes up for its own delay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ml.music.key import find_key, transposition
from ml.music.tempo import find_tempo

MOST_SPEED = 4 / 3
"""How much faster or slower a stem is played at most."""
_BEATS = 8
"""Beats before and behind a place that tell its tempo."""
_EARLY_S = 0.05
"""What begins so little before a beat begins on it."""
_TONAL_HZ = 8000.0
"""Above it a transposition keeps the spectrum's shape."""


@dataclass(frozen=True, kw_only=True)
class Music:
    """Tempo and key of one recording, as far as it has them."""

    bpm: float | None = None
    beats_s: Sequence[float] = ()
    """Increasing."""
    key: str | None = None
    """One of ``ml.music.key.KEYS``."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a stem is played with a mix."""

    speed: float = 1.0
    """How much faster it is played; 1: as it is."""
    semitones: int = 0
    """How much higher, -5…6."""
    start_s: float
    """Where the stem is played from, in its own time."""
    mix_start_s: float
    """What of the mix goes with that."""
    notes: tuple[str, ...] = ()
    """Why it was not brought to the tempo or key of the mix: a sentence each."""


def hear(waveform: np.ndarray) -> Music:
    """Find tempo, beats and key of (samples,) float32 mono at ``ml.music.tempo.RATE_HZ``."""
    tempo, key = find_tempo(waveform), find_key(waveform)
    return Music(
        bpm=tempo and tempo.bpm,
        beats_s=[] if tempo is None else tempo.beats_s.tolist(),
        key=key and key.name,
    )


def plan_fit(
    stem: Music,
    mix: Music,
    start_s: float,
    mix_start_s: float,
    *,
    to_tempo: bool = True,
    to_key: bool = False,
) -> Fit:
    """Plan how a stem is played with a mix.

    Args:
        stem: what it has.
        mix: what it shall have.
        start_s: from where on the stem fits.
        mix_start_s: with which place of the mix.
        to_tempo: stretch it, and begin both on a beat.
        to_key: transpose it.

    Returns:
        With places that lie on beats where it is stretched, less than a beat from those given.
    """
    speed, semitones, notes = 1.0, 0, []
    if to_tempo:
        speed, why_not = _speed(_bpm_at(stem, start_s), _bpm_at(mix, mix_start_s))
        if why_not is None:
            beat_s = _beat_before(stem.beats_s, start_s)
            mix_start_s = _nearest(mix.beats_s, mix_start_s - (start_s - beat_s) / speed)
            start_s = beat_s
        notes.append(why_not)
    if to_key and stem.key and mix.key:
        semitones = transposition(stem.key, mix.key)
    elif to_key:
        notes.append(f"the {'stem' if mix.key else 'mix'} has no plain key: not transposed")
    return Fit(
        speed=round(speed, 6),
        semitones=semitones,
        start_s=round(start_s, 6),
        mix_start_s=round(mix_start_s, 6),
        notes=tuple(filter(None, notes)),
    )


def stretched(audio: np.ndarray, rate_hz: int, speed: float, semitones: int) -> np.ndarray:
    """Play audio faster and higher, each without the other.

    Args:
        audio: (samples, channel) float32.
        rate_hz: its rate.
        speed: how much faster.
        semitones: how much higher.

    Returns:
        (round(samples / speed), channel) float32; the same where nothing changes.
    """
    if (speed == 1 and semitones == 0) or not len(audio):
        return audio
    from python_stretch import Signalsmith

    stretch = Signalsmith.Stretch()
    stretch.preset(audio.shape[1], rate_hz)
    stretch.setTimeFactor(speed)
    stretch.setTransposeSemitones(semitones, _TONAL_HZ / rate_hz)
    played = np.asarray(stretch.process(np.ascontiguousarray(audio.T, dtype=np.float32))).T
    length = round(len(audio) / speed)
    return np.pad(played[:length], ((0, max(0, length - len(played))), (0, 0)))


def _bpm_at(music: Music, place_s: float) -> float | None:
    """Find the tempo around a place: people play, and tempi drift."""
    if music.bpm is None or len(music.beats_s) < 2:
        return music.bpm
    beats = np.asarray(music.beats_s)
    first = int(
        np.clip(np.searchsorted(beats, place_s) - _BEATS, 0, max(0, len(beats) - 2 * _BEATS))
    )
    near = beats[first : first + 2 * _BEATS]
    return 60 / float(np.polyfit(np.arange(len(near)), near, 1)[0])


def _speed(from_bpm: float | None, to_bpm: float | None) -> tuple[float, str | None]:
    """Choose among octaves the ratio that is nearest to 1; or 1, and a sentence that says why."""
    if from_bpm is None or to_bpm is None:
        return 1.0, f"the {'stem' if to_bpm else 'mix'} has no steady tempo: not stretched"
    ratio = to_bpm / from_bpm
    speed = ratio / 2 ** round(math.log2(ratio))
    if max(speed, 1 / speed) <= MOST_SPEED:
        return speed, None
    return 1.0, (
        f"from {from_bpm:.1f} to {to_bpm:.1f} bpm it would be played {speed:.2f} times as fast, at "
        f"most {MOST_SPEED:.2f} either way is sensible: not stretched"
    )


def _beat_before(beats_s: Sequence[float], place_s: float) -> float:
    """Give the last beat that does not come after a place; the first where none does."""
    beats = np.asarray(beats_s)
    return float(beats[max(0, np.searchsorted(beats, place_s + _EARLY_S, side="right") - 1)])


def _nearest(beats_s: Sequence[float], place_s: float) -> float:
    beats = np.asarray(beats_s)
    return float(beats[np.abs(beats - place_s).argmin()])
