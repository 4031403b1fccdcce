"""The instruments: what they are called, what part they play, how they sound.

Categories and instruments follow MoisesDB's taxonomy (Pereira et al., ISMIR 2023), coarse → fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ml.corpora.demo.compose import (
    PartWriter,
    bass_part,
    chord_part,
    conga_part,
    drum_part,
    melody_part,
    shaker_part,
    sustained_part,
)
from ml.corpora.demo.score import Drum, Note, Style
from ml.corpora.demo.synths import KITS, Family, Tone, render_drums, render_tones, vary


class Instrument(NamedTuple):
    """One instrument of the demo corpus."""

    name: str
    """Key in ``INSTRUMENTS``; tonal instruments have a tone of this name."""
    path: str
    """Its labels, coarse > fine."""
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
    drums: tuple[Drum, ...] = ()
    """Drums of the kit that it plays."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Coarse to fine."""
        return tuple(self.path.split(" > "))


_KIT = (*(Drum.KICK, Drum.SNARE, Drum.HAT, Drum.OPEN_HAT, Drum.CRASH), Drum.TOM_LOW, Drum.TOM_HIGH)
# fmt: off
_INSTRUMENTS = (
    Instrument("drum kit", "drums > drum kit", "drums", -2.5, kit="acoustic", drums=_KIT),
    Instrument("drum machine", "drums > drum machine", "drums", -2.5, kit="machine", drums=_KIT),
    Instrument("kick drum", "drums > kick drum", "drums", -2.5, kit="acoustic", drums=(Drum.KICK,)),
    Instrument("snare drum", "drums > snare drum",
               "drums", -2.5, kit="acoustic", drums=(Drum.SNARE,)),
    Instrument("hi-hat", "drums > cymbals > hi-hat",
               "drums", -2.5, kit="acoustic", drums=(Drum.HAT, Drum.OPEN_HAT)),
    Instrument("shaker", "percussion > a-tonal percussion > shaker", "shaker", -9, kit="shaker"),
    Instrument("congas", "percussion > a-tonal percussion > congas", "congas", -6, kit="congas"),
    Instrument("bass guitar", "bass > bass guitar", "bass", -4, 28, 43),
    Instrument("synth bass", "bass > bass synthesizer", "bass", -4, 28, 43),
    Instrument("piano", "piano > grand piano", "chords", -5, 50, 70),
    Instrument("electric piano", "piano > electric piano", "chords", -6, 50, 68),
    Instrument("organ", "other keys > organ", "sustained", -8, 52, 70),
    Instrument("synth pad", "other keys > synth pad", "sustained", -9, 50, 66),
    Instrument("synth lead", "other keys > synth lead", "melody", -7, 64, 86),
    Instrument("acoustic guitar", "guitar > acoustic guitar", "chords", -5, 48, 68, 0.014),
    Instrument("clean electric guitar", "guitar > electric guitar > clean electric guitar",
               "chords", -6, 48, 70, 0.008),
    Instrument("distorted electric guitar",
               "guitar > electric guitar > distorted electric guitar", "chords", -7, 40, 54),
    Instrument("string section", "bowed strings > string section", "sustained", -8, 55, 76),
    Instrument("brass section", "wind > brass > brass section", "chords", -6, 55, 72),
    Instrument("saxophone", "wind > reeds > saxophone", "melody", -6, 54, 74),
    Instrument("flute", "wind > flute", "melody", -8, 70, 91),
    Instrument("vibraphone", "percussion > pitched percussion > vibraphone", "chords", -6, 62, 84),
    Instrument("lead vocals", "vocals > lead vocals", "melody", -4, 55, 74),
    Instrument("choir", "vocals > background vocals > choir", "sustained", -9, 55, 74),
    Instrument("ukulele", "other plucked > ukulele", "chords", -6, 62, 80, 0.02),
    Instrument("violin", "bowed strings > violin", "melody", -7, 62, 86),
    Instrument("clarinet", "wind > reeds > clarinet", "melody", -7, 55, 79),
)
# fmt: on
INSTRUMENTS = {instrument.name: instrument for instrument in _INSTRUMENTS}
"""By name."""
UNSEEN = ("ukulele", "violin", "clarinet")
"""Instruments of held-out songs only."""
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "lead vocals": ("vocals", "lead vocals", "female lead vocals"),
    "saxophone": ("wind", "reeds", "sax"),
}
"""Instruments that some held-out songs call by names training songs do not use."""
_PIANO = tuple(
    (k * (1 + 0.0004 * k * k) ** 0.5, (0.75**k) * (0.6 if k % 7 == 0 else 1), 1 / (1 + 0.35 * k))
    for k in range(1, 13)
)
_VOWELS = (
    ((730, 0.22, 18.0), (1090, 0.2, 14.0), (2440, 0.15, 12.0), (3400, 0.2, 8.0)),  # a
    ((530, 0.22, 18.0), (1840, 0.2, 15.0), (2480, 0.15, 12.0), (3500, 0.2, 8.0)),  # e
    ((570, 0.22, 18.0), (840, 0.2, 15.0), (2410, 0.15, 9.0), (3300, 0.2, 6.0)),  # o
    ((300, 0.25, 18.0), (2290, 0.2, 14.0), (3010, 0.15, 12.0), (3600, 0.2, 8.0)),  # i
)
# fmt: off
TONES: dict[str, Tone] = {
    "bass guitar": Tone(
        slope_db=-7, formants=((90, 0.8, 6.0), (700, 0.5, 5.0)), fade_slope_db=-9,
        fade_s=0.12, decay_s=0.5, attack_s=0.004, release_s=0.03, noise=0.12,
        noise_hz=(600, 2500), noise_decay_s=0.012
    ),
    "synth bass": Tone(
        slope_db=-3.0, even=0.45, formants=((220, 0.4, 7.0),), fade_slope_db=-14, fade_s=0.09,
        attack_s=0.003, release_s=0.02, voices=2, detune_cents=7, drive=0.5
    ),
    "piano": Tone(
        slope_db=-6, partials=_PIANO, decay_s=0.9, attack_s=0.002, release_s=0.08, noise=0.25,
        noise_hz=(150, 1200), noise_decay_s=0.02
    ),
    "electric piano": Tone(
        slope_db=-6,
        partials=((1, 1.0, 1.0), (2, 0.12, 0.7), (3, 0.05, 0.5), (7.07, 0.22, 0.12),
                  (13.8, 0.08, 0.05)),
        decay_s=1.3, attack_s=0.003, release_s=0.09, tremolo_hz=5, tremolo=0.45
    ),
    "organ": Tone(
        slope_db=0,
        harmonics=(1, 0.8, 0.6, 0.5, 0, 0.35, 0, 0.3, 0, 0, 0, 0.1, 0, 0, 0, 0.12),
        attack_s=0.006, release_s=0.02, voices=2, detune_cents=5, vibrato_cents=9,
        vibrato_delay_s=0, tremolo_hz=6.5, tremolo=0.25, noise=0.5, noise_hz=(1500, 5000),
        noise_decay_s=0.006
    ),
    "synth pad": Tone(
        slope_db=-10, fade_slope_db=4, fade_s=-1.2, attack_s=0.35, release_s=0.35, voices=5,
        detune_cents=18
    ),
    "synth lead": Tone(
        slope_db=-2.5, even=0.0, attack_s=0.004, release_s=0.04, voices=2, detune_cents=10,
        vibrato_cents=22, scoop_cents=120
    ),
    "acoustic guitar": Tone(
        slope_db=-4, formants=((105, 0.3, 6.0), (220, 0.3, 7.0), (2800, 0.6, 7.0)),
        fade_slope_db=-10, fade_s=0.07, decay_s=0.35, attack_s=0.001, release_s=0.05,
        noise=0.9, noise_hz=(2500, 7000), noise_decay_s=0.008
    ),
    "clean electric guitar": Tone(
        slope_db=-4.5, even=0.7,
        formants=((900, 0.6, 8.0), (350, 0.5, -6.0), (4500, 0.5, -10.0)), fade_slope_db=-4,
        fade_s=0.4, decay_s=0.9, attack_s=0.003, release_s=0.05, voices=3, detune_cents=8,
        noise=0.15, noise_hz=(1200, 3500), noise_decay_s=0.008
    ),
    "distorted electric guitar": Tone(
        slope_db=-3, formants=((1300, 0.6, 6.0),), fade_slope_db=-3, fade_s=0.5, decay_s=3.0,
        attack_s=0.003, release_s=0.03, drive=9.0, cabinet_hz=4200
    ),
    "string section": Tone(
        slope_db=-5, formants=((450, 0.4, 4.0), (1200, 0.4, 3.0), (2700, 0.5, 6.0)),
        fade_slope_db=1, fade_s=-0.3, attack_s=0.14, release_s=0.14, voices=5,
        detune_cents=14, vibrato_cents=14, vibrato_delay_s=0.1, noise=0.06,
        noise_hz=(2500, 7000)
    ),
    "brass section": Tone(
        slope_db=-9, formants=((700, 0.7, 7.0), (1500, 0.5, 6.0)), fade_slope_db=5,
        fade_s=-0.07, attack_s=0.035, release_s=0.04, voices=3, detune_cents=7, scoop_cents=60
    ),
    "saxophone": Tone(
        slope_db=-5, formants=((620, 0.3, 9.0), (1350, 0.3, 8.0), (3000, 0.3, 6.0)),
        attack_s=0.03, release_s=0.05, vibrato_cents=28, scoop_cents=90, noise=0.16,
        noise_hz=(1500, 6000), drive=0.7
    ),
    "flute": Tone(
        slope_db=-14, attack_s=0.06, release_s=0.06, vibrato_cents=14, noise=0.13,
        noise_hz=(1500, 7000)
    ),
    "vibraphone": Tone(
        slope_db=-6, partials=((1, 1.0, 1.0), (3.98, 0.3, 0.25), (9.9, 0.12, 0.06)),
        decay_s=1.6, attack_s=0.001, release_s=0.25, tremolo_hz=5.5, tremolo=0.35, noise=0.3,
        noise_hz=(800, 3000), noise_decay_s=0.005
    ),
    "lead vocals": Tone(
        slope_db=-9, vowels=_VOWELS, attack_s=0.045, release_s=0.07, vibrato_cents=42,
        scoop_cents=140, noise=1.6, noise_hz=(4500, 7500), noise_decay_s=0.05
    ),
    "choir": Tone(
        slope_db=-10, vowels=_VOWELS[:1] + _VOWELS[2:3], attack_s=0.18, release_s=0.2,
        voices=6, detune_cents=22, vibrato_cents=16, noise=0.1, noise_hz=(1500, 5000)
    ),
    "ukulele": Tone(
        slope_db=-6, formants=((420, 0.4, 8.0), (1900, 0.5, 6.0)), fade_slope_db=-10,
        fade_s=0.05, decay_s=0.28, attack_s=0.001, release_s=0.04, noise=0.5,
        noise_hz=(1200, 4500), noise_decay_s=0.007
    ),
    "violin": Tone(
        slope_db=-4, formants=((480, 0.3, 5.0), (1100, 0.3, 4.0), (2600, 0.4, 8.0)),
        attack_s=0.07, release_s=0.08, vibrato_cents=26, vibrato_delay_s=0.15, noise=0.09,
        noise_hz=(3000, 7500)
    ),
    "clarinet": Tone(
        slope_db=-6, even=0.08, formants=((1500, 0.5, 4.0),), attack_s=0.04, release_s=0.05,
        noise=0.04, noise_hz=(1500, 5000)
    ),
}
# fmt: on
"""How the tonal instruments sound, by name."""


def part_writer(instrument: Instrument, style: Style, rng: np.random.Generator) -> PartWriter:
    """Draw what the instrument plays in a song of this style."""
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
        tone = vary(TONES[instrument.name], family, rng)
        stem = render_tones(notes, tone, family.tuning_cents, samples, rng)
    return stem * np.float32(peak / max(float(np.abs(stem).max(initial=0)), 1e-9))
