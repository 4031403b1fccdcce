"""What each corpus calls an instrument, as labels in the words of ``ml.labels.taxonomy``.

Every function returns labels coarse to fine: a category of MoisesDB where one fits, then the
instrument as a person would type it; the two are one where they are the same words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from ml.labels.taxonomy import TRACK_TYPES, category_of

Labels = tuple[str, ...]
"""Coarse to fine; empty when the corpus does not say."""

MUSDB18: dict[str, Labels] = {
    "drums": ("drums",),
    "bass": ("bass",),
    "other": (),
    "vocals": ("vocals",),
}
"""The stems of MUSDB18 in the order of its audio streams 1 to 4; "other" says nothing, so it is
conditioned as "music" (Riou et al., section III-C)."""

UNLABELLED = frozenset(("", "unlabeled", "main system"))
"""What MedleyDB writes where it does not know the instrument."""

MEDLEYDB: dict[str, str] = {
    "bass": "electric bass, double bass, tuba, bassoon",
    "bowed strings": (
        "violin, viola, cello, erhu, violin section, viola section, cello section, string section"
    ),
    "drums": "drum set, drum machine, kick drum, bass drum, snare drum, toms, high hat, cymbal",
    "guitar": (
        "acoustic guitar, clean electric guitar, distorted electric guitar, slide guitar, "
        "lap steel guitar"
    ),
    "other": "fx/processed sound, scratches, sampler, crowd",
    "other keys": (
        "electronic organ, pipe organ, harmonium, accordion, bandoneon, concertina, harpsichord, "
        "synthesizer, theremin"
    ),
    "other plucked": (
        "banjo, mandolin, ukulele, harp, oud, sitar, guzheng, liuqin, zhongruan, yangqin, dulcimer"
    ),
    "percussion": (
        "auxiliary percussion, triangle, sleigh bells, cowbell, cabasa, gong, guiro, gu, chimes, "
        "castanet, claps, rattle, shaker, maracas, tambourine, bongo, conga, darbuka, doumbek, "
        "tabla, timpani, xylophone, vibraphone, marimba, glockenspiel"
    ),
    "piano": "piano, tack piano, electric piano",
    "vocals": (
        "male singer, female singer, vocalists, male rapper, female rapper, male speaker, "
        "female speaker, beatboxing"
    ),
    "wind": (
        "flute, flute section, piccolo, recorder, dizi, bamboo flute, panpipes, whistle, clarinet, "
        "clarinet section, bass clarinet, oboe, english horn, bagpipe, soprano saxophone, "
        "alto saxophone, tenor saxophone, baritone saxophone, trumpet, trumpet section, cornet, "
        "trombone, trombone section, french horn, french horn section, horn section, euphonium, "
        "brass section, harmonica, melodica"
    ),
}
"""MedleyDB's taxonomy (Bittner et al., ISMIR 2014, version 1.0) under MoisesDB's categories."""

SYNONYMS: dict[str, str] = {
    "electric bass": "bass guitar",
    "drum set": "drum kit",
    "high hat": "hi-hat",
    "cymbal": "cymbals",
    "fx/processed sound": "sound effects",
    "auxiliary percussion": "percussion",
    "gu": "chinese drum",
    "acoustic grand piano": "grand piano",
    "contrabass": "double bass",
    "bag pipe": "bagpipe",
    "pan flute": "panpipes",
    "orchestral harp": "harp",
    "bass + lead synth lead": "synth lead",
    "polysynth synth pad": "polysynth pad",
    "drums": "drum kit",
}
"""Names of MedleyDB and General MIDI for what the taxonomy, or the other of the two, calls
differently."""

MIDI_CLASSES: dict[str, str] = {
    "piano": "piano",
    "chromatic percussion": "percussion",
    "organ": "other keys",
    "guitar": "guitar",
    "bass": "bass",
    "strings": "bowed strings",
    "brass": "wind",
    "reed": "wind",
    "reeds": "wind",
    "pipe": "wind",
    "synth lead": "other keys",
    "synth pad": "other keys",
    "synth effects": "other",
    "ethnic": "other plucked",
    "percussive": "percussion",
    "sound effects": "other",
    "drums": "drums",
}
"""Slakh's classes, those of General MIDI, as categories; "(continued)" is left out before."""

_MIDI_EXCEPTIONS: dict[str, str] = {
    "bass": "double bass, tuba, bassoon",
    "bowed strings": "fiddle",
    "other keys": "harpsichord, clavinet, synth strings, synth voice, synth brass",
    "other plucked": "harp, dulcimer",
    "other": "orchestra hit",
    "percussion": "timpani, kalimba",
    "vocals": "choir aahs, voice oohs",
    "wind": "harmonica, bagpipe, shanai",
}
"""Instruments that General MIDI files under a class that they do not sound like."""


def _by_name(names: dict[str, str]) -> dict[str, str]:
    return {name: category for category, text in names.items() for name in text.split(", ")}


def _key(text: str) -> str:
    """Keep letters and digits only: MoisesDB's types are also met with underscores for spaces."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


_MEDLEYDB_CATEGORY = _by_name(MEDLEYDB)
_MIDI_CATEGORY = _by_name(_MIDI_EXCEPTIONS)
_TEXT_OF_TYPE = {
    _key(name): text
    for types in TRACK_TYPES.values()
    for pair in types.items()
    for name, text in (pair, (pair[1], pair[1]))
}


@cache
def moisesdb_labels(stem_name: str, track_type: str) -> Labels:
    """Label a file of MoisesDB.

    Args:
        stem_name: ``stemName``, such as ``other_keys``.
        track_type: ``trackType``, the long form; one that is not known is kept as cleaned text.
    """
    text = _TEXT_OF_TYPE.get(_key(track_type)) or _cleaned(track_type)
    return _labels(_cleaned(stem_name) or category_of(text), text)


def medleydb_labels(instruments: str | Sequence[str]) -> Labels:
    """Label a stem of MedleyDB.

    Args:
        instruments: what ``instrument`` holds; several in a stem become "violin and cello" in the
            order of the file, under their category if they share one.
    """
    names = [instruments] if isinstance(instruments, str) else instruments
    known = [name.strip().lower() for name in names if name.strip().lower() not in UNLABELLED]
    texts = list(dict.fromkeys(SYNONYMS.get(name, _cleaned(name)) for name in known))
    categories = {_MEDLEYDB_CATEGORY.get(name) for name in known}
    category = categories.pop() if len(categories) == 1 else None
    return _labels(category, _spoken(texts))


@cache
def slakh_labels(midi_class: str, program_name: str, *, is_drums: bool) -> Labels:
    """Label a stem of Slakh2100.

    Args:
        midi_class: ``inst_class``; "Strings (continued)" is "Strings".
        program_name: ``midi_program_name``; "Electric Guitar (clean)" becomes "clean electric
            guitar", "Synth Bass 2" "synth bass".
        is_drums: the MIDI channel of drums: no program.
    """
    if is_drums:
        return _labels("drums", "drum kit")
    name = _program(program_name)
    text = SYNONYMS.get(name, name)
    family = re.sub(r"\s*\(continued\)", "", midi_class.strip().lower())
    category = _MIDI_CATEGORY.get(text) or MIDI_CLASSES.get(family)
    return _labels(category or category_of(text), text)


def _program(name: str) -> str:
    """Say a General MIDI program as people do: no number, what is in brackets first."""
    text = re.sub(r"\s+", " ", name.strip().lower())
    numbered = re.fullmatch(r"(lead|pad|fx) \d \((.+)\)", text)
    if numbered:
        noun = {"lead": "synth lead", "pad": "synth pad", "fx": "sound effect"}[numbered[1]]
        return f"{numbered[2]} {noun}"
    text = re.sub(r"\bsax\b", "saxophone", re.sub(r" \d$", "", text))
    return re.sub(r"^(.+) \((.+)\)$", r"\2 \1", text)


def _cleaned(text: str) -> str:
    """Reduce to lower-case words without what is in brackets."""
    words = re.sub(r"\(.*?\)", " ", text.lower().replace("_", " "))
    return re.sub(r"\s+", " ", words).strip(" ,;")


def _spoken(texts: Sequence[str]) -> str:
    """Join as people do: a; a and b; a, b and c."""
    return " and ".join(filter(None, (", ".join(texts[:-1]), *texts[-1:])))


def _labels(category: str | None, text: str) -> Labels:
    return tuple(dict.fromkeys(label for label in (category, text) if label))
