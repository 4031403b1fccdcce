"""A stem brought to a mix: at its tempo, on its beat and, where asked, in its key.

A tempo heard as 60 may as well be 120, so the stem is played by the octave of the ratio that
changes it least. What would have to change by more than ``MOST_SPEED`` stays as it is, and so does
what has no steady tempo; the plan says why. Stretching and transposing is Signalsmith Stretch
(``python_stretch``, MIT licence), which makes up for its own delay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
        own, other = _grid(stem, start_s), _grid(mix, mix_start_s)
        speed, why_not = _speed(own and 60 / own[0], other and 60 / other[0])
        if own and other and why_not is None:
            beat_s = _beat(own, start_s + _EARLY_S, math.floor)
            mix_start_s = _beat(other, mix_start_s - (start_s - beat_s) / speed, round)
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


def _grid(music: Music, place_s: float) -> tuple[float, float] | None:
    """Lay a grid on the beats around a place, for people's tempi drift: its step, and one beat.

    The line through some beats says where each is to a fraction of the frames they were found in.
    """
    beats = np.asarray(music.beats_s)
    if music.bpm is None or len(beats) < 2:
        return None
    first = max(0, min(int(np.searchsorted(beats, place_s)) - _BEATS, len(beats) - 2 * _BEATS))
    near = beats[first : first + 2 * _BEATS]
    step_s, beat_s = np.polyfit(np.arange(len(near)), near, 1)
    return float(step_s), float(beat_s)


def _beat(grid: tuple[float, float], place_s: float, choose: Callable[[float], int]) -> float:
    """Give a beat of a grid near a place, none before 0."""
    step_s, beat_s = grid
    place = choose((place_s - beat_s) / step_s)
    return beat_s + max(place, math.ceil(-beat_s / step_s)) * step_s


def _speed(from_bpm: float | None, to_bpm: float | None) -> tuple[float, str | None]:
    """Choose among octaves the ratio that is nearest to 1; or 1, and a sentence that says why."""
    if from_bpm is None or to_bpm is None:
        return 1.0, f"the {'stem' if to_bpm else 'mix'} has no steady tempo: not stretched"
    ratio = to_bpm / from_bpm
    speed = ratio / 2 ** round(math.log2(ratio))
    if max(speed, 1 / speed) <= MOST_SPEED:
        return speed, None
    return 1.0, (
        f"{to_bpm:.1f} bpm for {from_bpm:.1f} would be {speed:.2f} times as fast, beyond "
        f"{MOST_SPEED:.2f} either way: not stretched"
    )
