"""What a composed song is made of: its style, its clock, its form, its notes. Only data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

STEPS_PER_BEAT = 4
"""The grid is sixteenth notes."""

MODES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}
"""Semitones above the tonic of the seven degrees."""

KEY_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


class Drum(IntEnum):
    """General MIDI numbers of the drums."""

    KICK, SNARE, HAT, OPEN_HAT, CRASH, TOM_LOW, TOM_HIGH = 36, 38, 42, 46, 49, 45, 50
    SHAKER, CONGA_LOW, CONGA_HIGH = 70, 64, 63


class Note(NamedTuple):
    """One played note."""

    start_s: float
    duration_s: float
    pitch: int
    """MIDI number; for drums a ``Drum``."""
    velocity: float
    """Greater than 0, at most 1."""


class StepNote(NamedTuple):
    """A note on the grid of one bar."""

    step: int
    steps: float
    """Length in steps."""
    pitch: int
    velocity: float
    delay_s: float = 0.0
    """Played so much later (the strings of a strummed chord)."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """What all parts of one song share; drawn once per song."""

    bpm: float
    """Tempo at the start, 70 to 170."""
    drift: float
    """The tempo at the end over the tempo at the start, minus one; 0 in most songs."""
    beats_per_bar: int
    """4, or 3 in some songs."""
    swing: float
    """Where the off-beat falls: 0.5 straight to 0.67 triplet."""
    tonic: int
    """Pitch class of the key, 0 = C."""
    mode: str
    """A key of ``MODES``."""
    tuning_cents: float
    """Deviation of the whole band from 440 Hz."""
    progressions: dict[str, tuple[int, ...]]
    """Section letter → degrees of the chords, 0 = tonic."""
    chords_per_bar: float
    """Harmonic rhythm: 0.5, 1 or 2."""
    sevenths: bool
    """Chords have four notes instead of three."""
    hits: tuple[int, ...]
    """The rhythm of the song: the steps of a bar that its parts lean on."""
    kick: tuple[int, ...]
    snare: tuple[int, ...]
    hat: tuple[int, ...]
    """Steps of a bar of the three drums."""
    bass_mode: str
    """``kick``, ``eighths``, ``hits`` or ``long``."""
    comp_mode: str
    """``hits`` or ``arpeggio``: how chords are played."""
    arpeggio: tuple[int, ...]
    """Order in which broken chords run through their notes."""
    arpeggio_steps: int
    """Steps between the notes of broken chords."""
    is_pulsed: bool
    """Sustained parts strike again on every hit."""
    articulation: float
    """Share of the time to the next note that a note sounds, 0.25 to 1."""
    accent: float
    """How much softer than a downbeat a weak step is, 0 to 0.7."""
    register: int
    """Semitones by which all tonal parts but the bass are shifted."""
    looseness_s: float
    """Standard deviation of the players' timing."""

    @property
    def steps_per_bar(self) -> int:
        """Number of sixteenth notes in a bar."""
        return self.beats_per_bar * STEPS_PER_BEAT

    def degree_pitch(self, degree: int) -> int:
        """Find the pitch of a degree of the scale, counted from the tonic above MIDI 0."""
        octave, step = divmod(degree, 7)
        return self.tonic + 12 * octave + MODES[self.mode][step]

    def velocity(self, step: int) -> float:
        """Say how loud a step is: downbeat 1, then beats, eighths, sixteenths."""
        if step == 0:
            return 1.0
        weak = 0.35 if step % STEPS_PER_BEAT == 0 else 0.7 if step % 2 == 0 else 1.0
        return 1.0 - self.accent * weak


@dataclass(frozen=True, kw_only=True)
class Section:
    """Some bars in which the same parts play."""

    letter: str
    """Which of the song's progressions is played."""
    first_bar: int
    bars: int
    playing: tuple[bool, ...]
    """One per part; False: the part rests."""


@dataclass(frozen=True)
class Clock:
    """From beats to seconds: tempo, drift and swing."""

    beat_times_s: np.ndarray
    """(beat,) increasing, one more than fit into the song."""
    swing: float

    def seconds(self, beat: float) -> float:
        """Find when a beat position (fractional, from 0) is played."""
        whole = min(int(beat), len(self.beat_times_s) - 2)
        inside = beat - whole
        if inside < 0.5:
            inside = inside * 2 * self.swing
        elif inside < 1:
            inside = self.swing + (inside - 0.5) * 2 * (1 - self.swing)
        start, end = self.beat_times_s[whole], self.beat_times_s[whole + 1]
        return float(start + inside * (end - start))


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A song on paper."""

    style: Style
    beat_times_s: np.ndarray
    """(beat,) the beats inside the song."""
    sections: tuple[Section, ...]
    section_times_s: tuple[tuple[float, float], ...]
    """Start and end of each section."""
    parts: tuple[tuple[Note, ...], ...]
    """The notes of each part, in the order of the cast."""
