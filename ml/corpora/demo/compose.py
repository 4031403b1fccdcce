"""Composes songs: tempo, key, chords, swing and form, then what each part plays.

All parts of a song share its *style* (rhythm cell, chords, articulation, accents), so that a part
fits its own song better than another one. A part is played by a *part writer*: it draws what stays
the same through the song (a riff, a motif) and is then asked bar by bar.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ml.corpora.demo.score import (
    MODES,
    STEPS_PER_BEAT,
    Clock,
    Composition,
    Drum,
    Note,
    Section,
    StepNote,
    Style,
)

_PROGRESSIONS = tuple(
    tuple(map(int, degrees))
    for degrees in (
        *("0453", "0534", "0343", "5304", "0654", "0304"),
        *("1400", "0234", "0630", "0034", "3425", "0131"),
    )
)
"""Degrees of the chords, 0 = tonic."""
_SECTION_S = (3.6, 8.0)
_PLAYING = 0.78
_MIN_SHARE = 0.55
_MIN_PLAYING_PARTS = 2


class BarPlace(NamedTuple):
    """Where in the form a bar stands."""

    bar: int
    letter: str
    """Progression that is played."""
    is_first: bool
    """First bar of its section."""
    is_last: bool


PartWriter = Callable[[BarPlace], list[StepNote]]


def draw_style(rng: np.random.Generator) -> Style:
    """Draw what the parts of one song share."""
    beats_per_bar = int(rng.choice([4, 3], p=[0.88, 0.12]))
    steps = beats_per_bar * STEPS_PER_BEAT
    syncopation = rng.uniform(0.05, 0.9)
    chosen = rng.choice(len(_PROGRESSIONS), size=2, replace=False)
    return Style(
        bpm=round(float(np.exp(rng.uniform(np.log(70), np.log(170)))), 2),
        drift=round(float(rng.uniform(-0.06, 0.06)), 4) if rng.random() < 0.12 else 0.0,
        beats_per_bar=beats_per_bar,
        swing=0.5 if rng.random() < 0.55 else round(float(rng.uniform(0.55, 0.67)), 3),
        tonic=int(rng.integers(12)),
        mode=str(rng.choice(list(MODES), p=[0.35, 0.35, 0.15, 0.15])),
        tuning_cents=round(float(rng.uniform(-40, 40)), 1),
        progressions={"A": _PROGRESSIONS[chosen[0]], "B": _PROGRESSIONS[chosen[1]]},
        chords_per_bar=float(rng.choice([0.5, 1, 2], p=[0.3, 0.5, 0.2])),
        sevenths=bool(rng.random() < 0.4),
        hits=_draw_steps(rng, steps, int(rng.integers(2, 10)), syncopation),
        kick=_draw_steps(rng, steps, int(rng.integers(1, 6)), syncopation * 0.7),
        snare=_draw_snare(rng, beats_per_bar),
        hat=_draw_hat(rng, steps),
        bass_mode=str(rng.choice(["kick", "eighths", "hits", "long"], p=[0.35, 0.2, 0.3, 0.15])),
        comp_mode=str(rng.choice(["hits", "arpeggio"], p=[0.65, 0.35])),
        arpeggio=tuple(int(i) for i in rng.permutation(4)),
        arpeggio_steps=int(rng.choice([1, 2, 3, 4], p=[0.3, 0.4, 0.15, 0.15])),
        is_pulsed=bool(rng.random() < 0.45),
        articulation=round(float(rng.uniform(0.25, 1.0)), 3),
        accent=round(float(rng.uniform(0.0, 0.7)), 3),
        register=int(rng.integers(-4, 6)),
        looseness_s=round(float(rng.uniform(0.0, 0.006)), 4),
    )


def compose(
    rng: np.random.Generator, style: Style, writers: Sequence[PartWriter], duration_s: float
) -> Composition:
    """Write a song.

    Args:
        rng: where all chance comes from.
        style: what the parts share.
        writers: one per part; what it plays in a bar.
        duration_s: length of the song; notes may ring beyond it.
    """
    start_s = round(float(rng.uniform(0.02, 0.3)), 4)
    times = _beat_times(style, start_s, duration_s)
    clock = Clock(times, style.swing)
    beats = int(np.sum(times < duration_s))
    sections = _draw_form(rng, style, math.ceil(beats / style.beats_per_bar), len(writers))
    parts = []
    for part, writer in enumerate(writers):
        notes: list[Note] = []
        for section in sections:
            if section.playing[part]:
                notes += _play_section(rng, style, clock, section, writer)
        parts.append(tuple(note for note in sorted(notes) if note.start_s < duration_s - 0.05))
    return Composition(
        style=style,
        beat_times_s=times[:beats],
        sections=sections,
        section_times_s=tuple(_section_times(style, clock, s, duration_s) for s in sections),
        parts=tuple(parts),
    )


def drum_part(style: Style, rng: np.random.Generator, drums: Sequence[int]) -> PartWriter:
    """Write the song's beat, of which only ``drums`` are played."""
    has_fills = rng.random() < 0.5
    open_hat = int(rng.choice(style.hat)) if rng.random() < 0.4 else -1
    ghost = int(rng.integers(1, style.steps_per_bar)) if rng.random() < 0.4 else -1

    def write(place: BarPlace) -> list[StepNote]:
        notes = [StepNote(step, 1, Drum.KICK, style.velocity(step)) for step in style.kick]
        notes += [StepNote(step, 1, Drum.SNARE, 0.95) for step in style.snare]
        if ghost >= 0:
            notes.append(StepNote(ghost, 1, Drum.SNARE, 0.35))
        for step in style.hat:
            drum = Drum.OPEN_HAT if step == open_hat else Drum.HAT
            notes.append(StepNote(step, 1, drum, 0.9 * style.velocity(step)))
        if place.is_first:
            notes.append(StepNote(0, 4, Drum.CRASH, 0.9))
        if place.is_last and has_fills:
            fill = range(style.steps_per_bar - 4, style.steps_per_bar)
            toms = (Drum.TOM_HIGH, Drum.TOM_HIGH, Drum.TOM_LOW, Drum.TOM_LOW)
            notes += [StepNote(s, 1, tom, 0.9) for s, tom in zip(fill, toms, strict=True)]
        return [note for note in notes if note.pitch in drums]

    return write


def shaker_part(style: Style, rng: np.random.Generator) -> PartWriter:
    """Write a steady subdivision with the accents of the song's hits."""
    every = int(rng.choice([1, 2]))

    def write(place: BarPlace) -> list[StepNote]:
        del place
        steps = range(0, style.steps_per_bar, every)
        return [StepNote(s, 1, Drum.SHAKER, 1.0 if s in style.hits else 0.45) for s in steps]

    return write


def conga_part(style: Style, rng: np.random.Generator) -> PartWriter:
    """Write the song's hits for two drums."""
    high = {step: bool(rng.random() < 0.5) for step in style.hits}

    def write(place: BarPlace) -> list[StepNote]:
        del place
        return [
            StepNote(s, 1, Drum.CONGA_HIGH if high[s] else Drum.CONGA_LOW, style.velocity(s))
            for s in style.hits
        ]

    return write


def bass_part(style: Style, rng: np.random.Generator, low: int, high: int) -> PartWriter:
    """Write a riff over the roots, locked to kick drum or hits."""
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
    """Write chords on the song's hits, or broken ones; ``strum_s`` between a chord's notes."""
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
    """Write held chords that strike again where the chord changes, or on the hits."""
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
    """Write a motif of two bars on the song's rhythm that follows the chords."""
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


def _draw_steps(
    rng: np.random.Generator, steps: int, count: int, syncopation: float
) -> tuple[int, ...]:
    position = np.arange(steps)
    weight = np.where(position % STEPS_PER_BEAT == 0, 1.0, syncopation)
    weight = np.where(position % 2 == 1, 0.6 * syncopation**2, weight)
    weight[0] = 0
    others = rng.choice(
        steps, size=min(count - 1, steps - 1), replace=False, p=weight / weight.sum()
    )
    return tuple(sorted({0, *(int(step) for step in others)}))


def _draw_snare(rng: np.random.Generator, beats_per_bar: int) -> tuple[int, ...]:
    if beats_per_bar == 3:
        choices = [(4, 8), (8,), (4,)]
    else:
        choices = [(4, 12), (4, 12), (8,), (4, 12, 15), (4, 10, 12), (6, 12)]
    return choices[int(rng.integers(len(choices)))]


def _draw_hat(rng: np.random.Generator, steps: int) -> tuple[int, ...]:
    kind = rng.choice(["eighths", "sixteenths", "quarters", "offbeats", "gallop"])
    if kind == "gallop":
        return tuple(step for step in range(steps) if step % 4 != 1)
    first, every = {
        "eighths": (0, 2),
        "sixteenths": (0, 1),
        "quarters": (0, 4),
        "offbeats": (2, 4),
    }[str(kind)]
    return tuple(range(first, steps, every))


def _beat_times(style: Style, start_s: float, duration_s: float) -> np.ndarray:
    count = math.ceil(duration_s / 60 * style.bpm * 1.1) + 2 * style.beats_per_bar
    played = np.arange(count) * 60 / style.bpm
    bpm = style.bpm * (1 + style.drift * np.minimum(played / duration_s, 1.0))
    return start_s + np.concatenate([[0.0], np.cumsum(60 / bpm)])  # (beat,)


def _draw_form(
    rng: np.random.Generator, style: Style, bars: int, parts: int
) -> tuple[Section, ...]:
    """Cut the bars into sections and say who rests in which."""
    bar_s = style.beats_per_bar * 60 / style.bpm
    lengths: list[int] = []
    while sum(lengths) < bars:
        wanted = max(1, round(float(rng.uniform(*_SECTION_S)) / bar_s))
        lengths.append(min(wanted, bars - sum(lengths)))
    letters = [str(rng.choice(["A", "A", "B"])) for _ in lengths]
    playing = _draw_playing(rng, np.array(lengths), parts)
    firsts = np.cumsum([0, *lengths])
    return tuple(
        Section(
            letter=letters[i],
            first_bar=int(firsts[i]),
            bars=lengths[i],
            playing=tuple(bool(on) for on in playing[:, i]),
        )
        for i in range(len(lengths))
    )


def _draw_playing(rng: np.random.Generator, lengths: np.ndarray, parts: int) -> np.ndarray:
    """Draw who plays when: (part, section). All play most of the song, one rests somewhere."""
    playing = rng.random((parts, len(lengths))) < _PLAYING
    for part in range(parts):
        for section in rng.permutation(len(lengths)):
            if playing[part] @ lengths >= _MIN_SHARE * lengths.sum():
                break
            playing[part, section] = True
    for section in range(len(lengths)):
        for part in rng.permutation(parts):
            if playing[:, section].sum() >= min(_MIN_PLAYING_PARTS, parts):
                break
            playing[part, section] = True
    if playing.all() and len(lengths) > 1 and parts > _MIN_PLAYING_PARTS:
        playing[rng.integers(parts), np.argmax(lengths[:-1] <= lengths.sum() * 0.45)] = False
    return playing


def _play_section(
    rng: np.random.Generator, style: Style, clock: Clock, section: Section, writer: PartWriter
) -> list[Note]:
    """Write the notes of one part in one section; none sounds beyond its end."""
    notes = []
    per_bar = style.steps_per_bar
    end = (section.first_bar + section.bars) * per_bar
    for bar in range(section.first_bar, section.first_bar + section.bars):
        place = BarPlace(
            bar=bar,
            letter=section.letter,
            is_first=bar == section.first_bar,
            is_last=bar == section.first_bar + section.bars - 1,
        )
        for step_note in writer(place):
            notes.append(_timed(rng, style, clock, step_note, bar * per_bar, end))
    return notes


def _timed(
    rng: np.random.Generator, style: Style, clock: Clock, note: StepNote, offset: int, end: int
) -> Note:
    step = offset + note.step
    start_s = clock.seconds(step / STEPS_PER_BEAT)
    end_s = clock.seconds(min(step + note.steps, end) / STEPS_PER_BEAT)
    late_s = note.delay_s + float(np.clip(rng.normal(), -2, 2)) * style.looseness_s
    velocity = note.velocity * float(rng.uniform(0.93, 1.0))
    return Note(max(0.0, start_s + late_s), max(0.03, end_s - start_s), note.pitch, velocity)


def _section_times(
    style: Style, clock: Clock, section: Section, duration_s: float
) -> tuple[float, float]:
    first = section.first_bar * style.beats_per_bar
    start, end = clock.seconds(first), clock.seconds(first + section.bars * style.beats_per_bar)
    return min(start, duration_s), min(end, duration_s)


def chord_degree(style: Style, place: BarPlace, step: int) -> int:
    """Find the degree of the chord at a step of a bar."""
    progression = style.progressions[place.letter]
    position = (place.bar + step / style.steps_per_bar) * style.chords_per_bar
    return progression[int(position) % len(progression)]


def chord_pitches(style: Style, place: BarPlace, step: int, centre: int) -> list[int]:
    """List the notes of the chord at a step, each in the octave nearest to ``centre``, rising."""
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
    """Draw the (step, degrees above the chord's root) of one bar."""
    keep = [step for step in style.hits if step == 0 or rng.random() < 0.8]
    extra = [s for s in range(2, style.steps_per_bar, 2) if rng.random() < 0.12]
    steps = sorted({*keep, *extra})
    moves = np.clip(np.cumsum(rng.integers(-2, 3, size=len(steps))) + rng.choice([0, 2, 4]), -3, 8)
    return [(step, int(move)) for step, move in zip(steps, moves, strict=True)]


def _lengths(style: Style, steps: Sequence[int], more: float = 0.0) -> list[float]:
    """Say how many steps each note sounds, by the song's articulation."""
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
