"""Instruments in words: MoisesDB's two levels, and the four classes of MUSDB18.

Category and instrument texts follow the 11 stems and 44 track types of MoisesDB (Pereira et al.,
ISMIR 2023), shortened to what a person would type: they are what the model is conditioned with.
What other corpora call their instruments is put into these words in ``ml.labels.names``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

FourClass = Literal["bass", "drums", "other", "vocals"]

FOUR_CLASSES: tuple[FourClass, ...] = ("bass", "drums", "other", "vocals")
"""The stems of MUSDB18, in the order of the class table."""

TRACK_TYPES: dict[str, dict[str, str]] = {
    "bass": {
        "bass guitar": "bass guitar",
        "bass synthesizer (moog etc)": "synth bass",
        "contrabass/double bass (bass of instrings)": "double bass",
        "tuba (bass of brass)": "tuba",
        "bassoon (bass of woodwind)": "bassoon",
    },
    "bowed strings": {
        "violin (solo)": "violin",
        "viola (solo)": "viola",
        "cello (solo)": "cello",
        "string section": "string section",
        "violin section": "violin section",
        "viola section": "viola section",
        "cello section": "cello section",
        "other strings": "bowed strings",
    },
    "drums": {
        "snare drum": "snare drum",
        "toms": "toms",
        "kick drum": "kick drum",
        "cymbals": "cymbals",
        "overheads": "overheads",
        "full acoustic drumkit": "drum kit",
        "drum machine": "drum machine",
    },
    "guitar": {
        "clean electric guitar": "clean electric guitar",
        "distorted electric guitar": "distorted electric guitar",
        "lap steel guitar or slide guitar": "slide guitar",
        "acoustic guitar": "acoustic guitar",
    },
    "other": {
        "fx/processed sound, scratches, gun shots, explosions etc": "sound effects",
        "click track": "click track",
    },
    "other keys": {
        "organ, electric organ": "organ",
        "synth pad": "synth pad",
        "synth lead": "synth lead",
        "other sounds (hapischord, melotron etc)": "harpsichord",
    },
    "other plucked": {
        "banjo, mandolin, ukulele, harp etc": "banjo, mandolin, ukulele or harp",
    },
    "percussion": {
        "a-tonal percussion (claps, shakers, congas, cowbell etc)": "percussion",
        "pitched percussion (mallets, glockenspiel, ...)": "pitched percussion",
    },
    "piano": {
        "grand piano": "grand piano",
        "electric piano (rhodes, wurlitzer, piano sound alike)": "electric piano",
    },
    "vocals": {
        "lead male singer": "lead male singer",
        "lead female singer": "lead female singer",
        "human choir": "choir",
        "background vocals": "background vocals",
        "other (vocoder, beatboxing etc)": "vocoder or beatboxing",
    },
    "wind": {
        "brass (trumpet, trombone, french horn, brass etc)": "brass",
        "flutes (piccolo, bamboo flute, panpipes, flutes etc)": "flute",
        "reeds (saxophone, clarinets, oboe, english horn, bagpipe)": "reeds",
        "other wind": "wind instrument",
    },
}
"""MoisesDB's categories, and for each ``trackType`` (spelled as in its files) the text for it.

The 44 types are those of its published reader; Riou et al. speak of 38 instruments."""

CATEGORIES: dict[str, tuple[str, ...]] = {
    category: tuple(types.values()) for category, types in TRACK_TYPES.items()
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
    """Find the category of a text of the taxonomy ("synth bass" → "bass"), None for others."""
    return _CATEGORY_OF.get(text)


def four_class(labels: Sequence[str]) -> FourClass:
    """Class a stem in MUSDB18's sense.

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
