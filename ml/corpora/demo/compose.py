"""Composes songs: tempo, key, chords, swing and form, then what each part plays.

All parts of a song share its style (rhythm cell, chords, articulation, accents), so that a part
fits its own song better than another one. What a part plays within a bar is in ``parts``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ml.corpora.demo.parts import BarPlace, PartWriter
from ml.corpora.demo.score import (
    MODES,
    STEPS_PER_BEAT,
    Clock,
    Composition,
    Note,
    Section,
    StepNote,
    Style,
)

_PROGRESSIONS = (
    (0, 4, 5, 3),
    (0, 5, 3, 4),
    (0, 3, 4, 3),
    (5, 3, 0, 4),
    (0, 6, 5, 4),
    (0, 3, 0, 4),
    (1, 4, 0, 0),
    (0, 2, 3, 4),
    (0, 6, 3, 0),
    (0, 0, 3, 4),
    (3, 4, 2, 5),
    (0, 1, 3, 1),
)
_SECTION_S = (3.6, 8.0)
_PLAYING = 0.78
_MIN_SHARE = 0.55
_MIN_PLAYING_PARTS = 2


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
    """Who plays when: (part, section). Every part plays most of the song, one rests somewhere."""
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
    """The notes of one part in one section; none sounds beyond its end."""
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
