"""Instruments in words: MoisesDB's two levels, and the four classes of MUSDB18.

Category and instrument texts follow the 11 stems and 44 track types of MoisesDB (Pereira et al.,
ISMIR 2023), shortened to what a person would type: they are what the model is conditioned with.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

FourClass = Literal["bass", "drums", "other", "vocals"]

FOUR_CLASSES: tuple[FourClass, ...] = ("bass", "drums", "other", "vocals")
"""The stems of MUSDB18, in the order of the class table."""

CATEGORIES: dict[str, tuple[str, ...]] = {
    "bass": ("bass guitar", "synth bass", "double bass", "tuba", "bassoon"),
    "bowed strings": (
        *("violin", "viola", "cello", "string section"),
        *("violin section", "viola section", "cello section", "bowed strings"),
    ),
    "drums": (
        *("snare drum", "toms", "kick drum", "cymbals"),
        *("overheads", "drum kit", "drum machine"),
    ),
    "guitar": (
        "clean electric guitar",
        "distorted electric guitar",
        "slide guitar",
        "acoustic guitar",
    ),
    "other": ("sound effects", "click track"),
    "other keys": ("organ", "synth pad", "synth lead", "harpsichord"),
    "other plucked": ("banjo, mandolin, ukulele or harp",),
    "percussion": ("percussion", "pitched percussion"),
    "piano": ("grand piano", "electric piano"),
    "vocals": (
        *("lead male singer", "lead female singer", "choir"),
        *("background vocals", "vocoder or beatboxing"),
    ),
    "wind": ("brass", "flute", "reeds", "wind instrument"),
}
"""MoisesDB's categories (coarse) and the texts of their instruments (fine)."""

_WORDS: tuple[tuple[FourClass, str], ...] = (
    (
        "other",
        r"(alto|tenor|soprano|baritone) (sax\w*|horn|trombone|recorder|flute|clarinet|guitar)",
    ),
    ("other", r"bass (clarinet|flute|sax\w*|trombone|recorder|marimba|harmonica)|upright piano"),
    ("other", r"steel (drum|pan)s?|synth (choir|voices?|vox)|(choir|voice|vox) (pad|synth)"),
    ("bass", r"808 (bass|sub)"),
    (
        "vocals",
        r"vocals?|vocalist|voc|vox|bgvox|voices?|singers?|singing|sung|choirs?|chorus|choral|rap"
        r"|rapper|soprano|alto|tenor|baritone|acapella|a cappella|humming|beatbox(ing)?|vocoder"
        r"|scream(s|ing)?|speech|spoken word",
    ),
    (
        "drums",
        r"bass drums?|drums?|drum ?kits?|drum ?set|drummer|drumming|drum ?machine|[89]0[89]s?"
        r"|kicks?|kickdrum|snares?|hi ?hats?|hats?|toms?|cymbals?|crash|ride|overheads?|rimshot"
        r"|breakbeats?|beats?|claps?|handclaps?",
    ),
    (
        "bass",
        r"bass(es)?|sub|sub ?bass|synth ?bass|double ?bass|contrabass|upright|basslines?|fretless"
        r"|(contra)?bassoons?|tubas?",
    ),
)
"""Words that decide, the first row that matches: "bass clarinet", "bass singer", "bass drum" and
"808 bass" before "bass"."""

_PATTERNS: tuple[tuple[FourClass, re.Pattern[str]], ...] = tuple(
    (found, re.compile(rf"\b(?:{words})\b")) for found, words in _WORDS
)
_CATEGORY_OF = {text: name for name, texts in CATEGORIES.items() for text in (name, *texts)}


def category_of(text: str) -> str | None:
    """The category of a text of the taxonomy ("synth bass" → "bass"), None for other texts."""
    return _CATEGORY_OF.get(text)


def four_class(labels: Sequence[str]) -> FourClass:
    """The class of a stem in MUSDB18's sense.

    Args:
        labels: coarse to fine, free text.

    Returns:
        That of the first label that names a voice, drums or a bass; "other" for every other
        instrument and for a stem without labels. The categories map as in MoisesDB's own grouping
        into four (percussion is "other").
    """
    for label in labels:
        text = re.sub(r"[^a-z0-9]+", " ", label.lower()).strip()
        found = _class_of(text)
        if found != "other":
            return found
    return "other"


def _class_of(text: str) -> FourClass:
    for found, pattern in _PATTERNS:
        if pattern.search(text):
            return found
    return "other"
