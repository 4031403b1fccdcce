"""The instruments: what they are called, what part they play, how they sound.

Categories and instruments follow MoisesDB's taxonomy (Pereira et al., ISMIR 2023), coarse → fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ml.corpora.demo.drums import KITS, render_drums
from ml.corpora.demo.parts import (
    CRASH,
    HAT,
    KICK,
    OPEN_HAT,
    SNARE,
    TOM_HIGH,
    TOM_LOW,
    PartWriter,
    bass_part,
    chord_part,
    conga_part,
    drum_part,
    melody_part,
    shaker_part,
    sustained_part,
)
from ml.corpora.demo.score import Note, Style
from ml.corpora.demo.synths import Family, Tone, render_tones, vary
from ml.corpora.demo.tones import TONES

_WHOLE_KIT = (KICK, SNARE, HAT, OPEN_HAT, CRASH, TOM_LOW, TOM_HIGH)


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """One instrument of the demo corpus."""

    name: str
    """Key in ``INSTRUMENTS``; tonal instruments have a tone of this name."""
    labels: tuple[str, ...]
    """Coarse to fine."""
    part: str
    """``drums``, ``shaker``, ``congas``, ``bass``, ``chords``, ``sustained`` or ``melody``."""
    peak_db: float
    """Peak of its stems in dBFS, give or take 1.5."""
    low: int = 0
    high: int = 0
    """Range in MIDI numbers."""
    strum_s: float = 0.0
    """Time between the strings of a chord."""
    kit: str = ""
    """Key of ``KITS`` for drums."""
    drums: tuple[int, ...] = ()
    """Drums of the kit that it plays."""


def _listed(*instruments: Instrument) -> dict[str, Instrument]:
    return {instrument.name: instrument for instrument in instruments}


def _drums(name: str, drums: tuple[int, ...], *labels: str, kit: str = "acoustic") -> Instrument:
    labels = ("drums", *labels)
    return Instrument(name=name, labels=labels, part="drums", peak_db=-2.5, kit=kit, drums=drums)


def _tonal(
    name: str, part: str, low: int, high: int, peak_db: float, *labels: str, strum_s: float = 0.0
) -> Instrument:
    return Instrument(
        name=name, labels=labels, part=part, peak_db=peak_db, low=low, high=high, strum_s=strum_s
    )


INSTRUMENTS: dict[str, Instrument] = _listed(
    _drums("drum kit", _WHOLE_KIT, "drum kit"),
    _drums("drum machine", _WHOLE_KIT, "drum machine", kit="machine"),
    _drums("kick drum", (KICK,), "kick drum"),
    _drums("snare drum", (SNARE,), "snare drum"),
    _drums("hi-hat", (HAT, OPEN_HAT), "cymbals", "hi-hat"),
    Instrument(
        name="shaker",
        labels=("percussion", "a-tonal percussion", "shaker"),
        part="shaker",
        peak_db=-9,
        kit="shaker",
    ),
    Instrument(
        name="congas",
        labels=("percussion", "a-tonal percussion", "congas"),
        part="congas",
        peak_db=-6,
        kit="congas",
    ),
    _tonal("bass guitar", "bass", 28, 43, -4, "bass", "bass guitar"),
    _tonal("synth bass", "bass", 28, 43, -4, "bass", "bass synthesizer"),
    _tonal("piano", "chords", 50, 70, -5, "piano", "grand piano"),
    _tonal("electric piano", "chords", 50, 68, -6, "piano", "electric piano"),
    _tonal("organ", "sustained", 52, 70, -8, "other keys", "organ"),
    _tonal("synth pad", "sustained", 50, 66, -9, "other keys", "synth pad"),
    _tonal("synth lead", "melody", 64, 86, -7, "other keys", "synth lead"),
    _tonal("acoustic guitar", "chords", 48, 68, -5, "guitar", "acoustic guitar", strum_s=0.014),
    _tonal(
        "clean electric guitar",
        "chords",
        *(48, 70, -6),
        *("guitar", "electric guitar", "clean electric guitar"),
        strum_s=0.008,
    ),
    _tonal(
        "distorted electric guitar",
        "chords",
        *(40, 54, -7),
        *("guitar", "electric guitar", "distorted electric guitar"),
    ),
    _tonal("string section", "sustained", 55, 76, -8, "bowed strings", "string section"),
    _tonal("brass section", "chords", 55, 72, -6, "wind", "brass", "brass section"),
    _tonal("saxophone", "melody", 54, 74, -6, "wind", "reeds", "saxophone"),
    _tonal("flute", "melody", 70, 91, -8, "wind", "flute"),
    _tonal("vibraphone", "chords", 62, 84, -6, "percussion", "pitched percussion", "vibraphone"),
    _tonal("lead vocals", "melody", 55, 74, -4, "vocals", "lead vocals"),
    _tonal("choir", "sustained", 55, 74, -9, "vocals", "background vocals", "choir"),
    _tonal("ukulele", "chords", 62, 80, -6, "other plucked", "ukulele", strum_s=0.02),
    _tonal("violin", "melody", 62, 86, -7, "bowed strings", "violin"),
    _tonal("clarinet", "melody", 55, 79, -7, "wind", "reeds", "clarinet"),
)

UNSEEN = ("ukulele", "violin", "clarinet")
"""Instruments of held-out songs only."""

OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "lead vocals": ("vocals", "lead vocals", "female lead vocals"),
    "saxophone": ("wind", "reeds", "sax"),
}
"""Instruments that some held-out songs call by names training songs do not use."""


def part_writer(instrument: Instrument, style: Style, rng: np.random.Generator) -> PartWriter:
    """What the instrument plays in a song of this style."""
    low, high = instrument.low, instrument.high
    if instrument.part == "drums":
        return drum_part(style, rng, instrument.drums)
    if instrument.part == "shaker":
        return shaker_part(style, rng)
    if instrument.part == "congas":
        return conga_part(style, rng)
    if instrument.part == "bass":
        return bass_part(style, rng, low, high)
    if instrument.part == "chords":
        return chord_part(style, rng, low, high, strum_s=instrument.strum_s)
    write = {"sustained": sustained_part, "melody": melody_part}[instrument.part]
    return write(style, rng, low, high)


def render(
    instrument: Instrument,
    notes: Sequence[Note],
    family: Family,
    samples: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Render a stem without production.

    Args:
        instrument: who plays.
        notes: what is played.
        family: the timbre that the song's instruments share.
        samples: length.
        rng: this song's specimen of the instrument.

    Returns:
        (samples,) float32; its peak is the instrument's, give or take 1.5 dB.
    """
    peak = 10 ** ((instrument.peak_db + rng.uniform(-1.5, 1.5)) / 20)
    if instrument.kit:
        stem = render_drums(notes, KITS[instrument.kit](rng), samples)
    else:
        tone: Tone = vary(TONES[instrument.name], family, rng)
        stem = render_tones(notes, tone, family.tuning_cents, samples, rng)
    return stem * np.float32(peak / max(float(np.abs(stem).max(initial=0)), 1e-9))
