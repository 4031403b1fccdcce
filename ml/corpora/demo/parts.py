"""What a part plays within a bar: drums, bass, chords, sustained chords, melody.

Each function draws what stays the same through the song (a riff, a motif) and returns the writer
that is then asked bar by bar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ml.corpora.demo.score import STEPS_PER_BEAT, StepNote, Style

KICK, SNARE, HAT, OPEN_HAT, CRASH, TOM_LOW, TOM_HIGH, SHAKER, CONGA_LOW, CONGA_HIGH = (
    *(36, 38, 42, 46, 49, 45, 50),
    *(70, 64, 63),
)
"""General MIDI numbers of the drums."""


class BarPlace(NamedTuple):
    """Where in the form a bar stands."""

    bar: int
    letter: str
    """Progression that is played."""
    is_first: bool
    """First bar of its section."""
    is_last: bool


PartWriter = Callable[[BarPlace], list[StepNote]]


def drum_part(style: Style, rng: np.random.Generator, drums: Sequence[int]) -> PartWriter:
    """The song's beat, of which only ``drums`` are played."""
    has_fills = rng.random() < 0.5
    open_hat = int(rng.choice(style.hat)) if rng.random() < 0.4 else -1
    ghost = int(rng.integers(1, style.steps_per_bar)) if rng.random() < 0.4 else -1

    def write(place: BarPlace) -> list[StepNote]:
        notes = [StepNote(step, 1, KICK, style.velocity(step)) for step in style.kick]
        notes += [StepNote(step, 1, SNARE, 0.95) for step in style.snare]
        if ghost >= 0:
            notes.append(StepNote(ghost, 1, SNARE, 0.35))
        for step in style.hat:
            drum = OPEN_HAT if step == open_hat else HAT
            notes.append(StepNote(step, 1, drum, 0.9 * style.velocity(step)))
        if place.is_first:
            notes.append(StepNote(0, 4, CRASH, 0.9))
        if place.is_last and has_fills:
            fill = range(style.steps_per_bar - 4, style.steps_per_bar)
            toms = (TOM_HIGH, TOM_HIGH, TOM_LOW, TOM_LOW)
            notes += [StepNote(s, 1, tom, 0.9) for s, tom in zip(fill, toms, strict=True)]
        return [note for note in notes if note.pitch in drums]

    return write


def shaker_part(style: Style, rng: np.random.Generator) -> PartWriter:
    """A steady subdivision with the accents of the song's hits."""
    every = int(rng.choice([1, 2]))

    def write(place: BarPlace) -> list[StepNote]:
        del place
        steps = range(0, style.steps_per_bar, every)
        return [StepNote(s, 1, SHAKER, 1.0 if s in style.hits else 0.45) for s in steps]

    return write


def conga_part(style: Style, rng: np.random.Generator) -> PartWriter:
    """The song's hits on two drums."""
    high = {step: bool(rng.random() < 0.5) for step in style.hits}

    def write(place: BarPlace) -> list[StepNote]:
        del place
        return [
            StepNote(s, 1, CONGA_HIGH if high[s] else CONGA_LOW, style.velocity(s))
            for s in style.hits
        ]

    return write


def bass_part(style: Style, rng: np.random.Generator, low: int, high: int) -> PartWriter:
    """A riff over the roots, locked to kick drum or hits."""
    steps = {
        "kick": style.kick,
        "eighths": tuple(range(0, style.steps_per_bar, 2)),
        "hits": style.hits,
        "long": (0, style.steps_per_bar // 2),
    }[style.bass_mode]
    leaps = [0] + [int(rng.choice([0, 0, 0, 7, 12, 4])) for _ in steps[1:]]

    def write(place: BarPlace) -> list[StepNote]:
        notes = []
        for step, steps_on, leap in zip(steps, _lengths(style, steps), leaps, strict=True):
            degree = chord_degree(style, place, step)
            pitch = style.degree_pitch(degree) + 12 * (leap == 12)
            if leap in (4, 7):
                pitch = style.degree_pitch(degree + leap // 2 + leap // 7)
            pitch = _into_range(pitch, low, high)
            notes.append(StepNote(step, steps_on, pitch, style.velocity(step)))
        return notes

    return write


def chord_part(
    style: Style, rng: np.random.Generator, low: int, high: int, *, strum_s: float = 0.0
) -> PartWriter:
    """Chords on the song's hits, or broken chords; ``strum_s`` between the notes of a chord."""
    centre = (low + high) // 2 + style.register + int(rng.integers(-2, 3))

    def write(place: BarPlace) -> list[StepNote]:
        if style.comp_mode == "arpeggio":
            return _broken_chord(style, place, centre)
        notes = []
        for step, steps_on in zip(style.hits, _lengths(style, style.hits), strict=True):
            for i, pitch in enumerate(chord_pitches(style, place, step, centre)):
                delay_s = i * strum_s
                notes.append(StepNote(step, steps_on, pitch, style.velocity(step), delay_s))
        return notes

    return write


def sustained_part(style: Style, rng: np.random.Generator, low: int, high: int) -> PartWriter:
    """Held chords that strike again where the chord changes, or on the hits."""
    centre = (low + high) // 2 + style.register + int(rng.integers(-2, 3))
    per_bar = style.steps_per_bar
    changes = (0, per_bar // 2) if style.chords_per_bar == 2 else (0,)
    steps = style.hits if style.is_pulsed else changes

    def write(place: BarPlace) -> list[StepNote]:
        lengths = _lengths(style, steps) if style.is_pulsed else np.diff([*steps, per_bar])
        return [
            StepNote(step, float(steps_on), pitch, style.velocity(step))
            for step, steps_on in zip(steps, lengths, strict=True)
            for pitch in chord_pitches(style, place, step, centre)
        ]

    return write


def melody_part(style: Style, rng: np.random.Generator, low: int, high: int) -> PartWriter:
    """A motif of two bars on the song's rhythm that follows the chords."""
    centre = (low + high) // 2 + style.register
    bars = [_draw_motif(style, rng) for _ in range(2)]

    def write(place: BarPlace) -> list[StepNote]:
        motif = bars[place.bar % 2]
        steps = [step for step, _ in motif]
        notes = []
        for (step, move), steps_on in zip(motif, _lengths(style, steps, 0.15), strict=True):
            root = _into_range(
                style.degree_pitch(chord_degree(style, place, step)), centre - 6, centre + 5
            )
            pitch = _move_in_scale(style, root, move)
            notes.append(
                StepNote(step, steps_on, _into_range(pitch, low, high), style.velocity(step))
            )
        return notes

    return write


def chord_degree(style: Style, place: BarPlace, step: int) -> int:
    """Degree of the chord at a step of a bar."""
    progression = style.progressions[place.letter]
    position = (place.bar + step / style.steps_per_bar) * style.chords_per_bar
    return progression[int(position) % len(progression)]


def chord_pitches(style: Style, place: BarPlace, step: int, centre: int) -> list[int]:
    """The notes of the chord at a step, each in the octave nearest to ``centre``, rising."""
    degree = chord_degree(style, place, step)
    thirds = (0, 2, 4, 6) if style.sevenths else (0, 2, 4)
    pitches = (style.degree_pitch(degree + third) for third in thirds)
    return sorted({_into_range(pitch, centre - 6, centre + 5) for pitch in pitches})


def _broken_chord(style: Style, place: BarPlace, centre: int) -> list[StepNote]:
    notes = []
    every = style.arpeggio_steps
    for i, step in enumerate(range(0, style.steps_per_bar, every)):
        pitches = chord_pitches(style, place, step, centre)
        pitches = [*pitches, pitches[0] + 12]
        pitch = pitches[style.arpeggio[i % 4] % len(pitches)]
        steps_on = every * max(0.5, 1.6 * style.articulation)
        notes.append(StepNote(step, steps_on, pitch, style.velocity(step)))
    return notes


def _draw_motif(style: Style, rng: np.random.Generator) -> list[tuple[int, int]]:
    """(step, degrees above the chord's root) of one bar."""
    keep = [step for step in style.hits if step == 0 or rng.random() < 0.8]
    extra = [s for s in range(2, style.steps_per_bar, 2) if rng.random() < 0.12]
    steps = sorted({*keep, *extra})
    moves = np.clip(np.cumsum(rng.integers(-2, 3, size=len(steps))) + rng.choice([0, 2, 4]), -3, 8)
    return [(step, int(move)) for step, move in zip(steps, moves, strict=True)]


def _lengths(style: Style, steps: Sequence[int], more: float = 0.0) -> list[float]:
    """How many steps each note sounds, by the song's articulation."""
    gaps = np.diff([*steps, steps[0] + style.steps_per_bar])
    share = min(1.0, style.articulation + more)
    return [max(0.4, float(min(gap, 2 * STEPS_PER_BEAT)) * share) for gap in gaps]


def _into_range(pitch: int, low: int, high: int) -> int:
    """Move by octaves until between ``low`` and ``high`` (an octave or more apart)."""
    while pitch < low:
        pitch += 12
    while pitch > high:
        pitch -= 12
    return pitch


def _move_in_scale(style: Style, pitch: int, degrees: int) -> int:
    scale = [style.degree_pitch(degree) for degree in range(77)]
    nearest = int(np.argmin([abs(p - pitch) for p in scale]))
    return scale[int(np.clip(nearest + degrees, 0, len(scale) - 1))]
