"""Other words for a label, by which training may ask in its place.

They come from the tables that read track names, so that a model has heard of "electric bass" where
a corpus says "bass guitar", and words of one's own lie nearer to something known.
"""

from __future__ import annotations

from ml.labels.names import SYNONYMS
from ml.labels.spellings import INSTRUMENTS, read_spelling
from ml.labels.taxonomy import category_of, four_class

TEMPLATES = ("a recording of {}", "the sound of {}", "{} playing in a song", "solo {}")
"""What people write around an instrument."""
FAMILIES = {
    "bass": "deep low notes",
    "bowed strings": "a string instrument played with a bow",
    "drums": "drums beating the rhythm",
    "guitar": "a string instrument plucked or strummed by hand",
    "other": "an effect or noise",
    "other keys": "a keyboard instrument with held tones",
    "other plucked": "a string instrument plucked or strummed by hand",
    "percussion": "a percussion instrument struck or shaken",
    "piano": "a keyboard instrument with hammers",
    "vocals": "a human voice",
    "wind": "a wind instrument blown with the breath",
}
"""How the instruments of a category of the taxonomy are played or sound."""


def synonyms(label: str) -> tuple[str, ...]:
    """List other names of what a label names; none where the tables do not have it.

    >>> synonyms("bass guitar")[0]
    'electric bass'
    """
    names = [name for name, text in SYNONYMS.items() if text == label]
    for instruments in INSTRUMENTS.values():
        names += instruments[label].split(", ") if label in instruments else []
    return tuple(name for name in dict.fromkeys(names) if name != label)


def wordings(label: str) -> tuple[str, ...]:
    """List what else may be asked for a label: synonyms, sentences, words of family and sound.

    >>> wordings("sitar")[-2:]
    ('solo sitar', 'sitar, a string instrument plucked or strummed by hand')
    """
    category = four_class([label])
    if category == "other":
        category = category_of(label) or next(iter(read_spelling(label).labels), "")
    sentences = [template.format(label) for template in TEMPLATES]
    described = [f"{label}, {FAMILIES[category]}"] if category in FAMILIES else []
    return (*synonyms(label), *sentences, *described)
