"""The vocabulary of multitracks: stem, track, split, and what a corpus must offer."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

Split = Literal["train", "valid", "test"]

Kind = Literal[
    "beats", "demo", "folder", "manifest", "medleydb", "midi", "moisesdb", "musdb18", "slakh2100"
]
"""Layouts of corpora that ``ml.corpora.corpus.open_corpus`` reads."""
NO_STEMS: tuple[Kind, ...] = ("beats",)
"""Kinds of corpora without stems: nothing of them can be found."""

MUSIC = "music"
"""What a stem without a label is conditioned with (Riou et al., section II-E)."""
Conditioning = Literal["fine", "coarse", "none"]
"""What a query asks for: a stem's last label, its first, or any ``MUSIC``."""
CONDITIONINGS = get_args(Conditioning)
_GUEST_WORD = r"(?:feat|ft|featuring)\b\.?"
_GUESTS = re.compile(rf"[(\[]\s*{_GUEST_WORD}[^)\]]*[)\]]?|\s{_GUEST_WORD}.*$", re.IGNORECASE)


class CorpusError(ValueError):
    """A corpus root is wrong or empty, or its metadata cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Stem:
    """One recorded part of a track: the sum of its files."""

    stem_id: str
    """Unique in the corpus and stable across machines: ``<track_id>/<name>``."""
    files: tuple[Path, ...]
    """Absolute paths; files of one stem are summed, shorter ones padded with silence."""
    labels: tuple[str, ...] = ()
    """Instrument in words, coarse to fine; empty when unknown."""
    stream: int | None = None
    """Index among the *audio* streams of the file (MUSDB18's ``.stem.mp4``), None: the first."""
    start_s: float = 0.0
    """Where the stem starts in its track, in seconds (silence before)."""
    has_bleed: bool | None = None
    """Whether other instruments are audible in it; None when the corpus does not say."""

    @property
    def label(self) -> str:
        """The finest label, or ``"music"``."""
        return self.labels[-1] if self.labels else MUSIC

    @property
    def category(self) -> str | None:
        """The coarsest label, None when unlabelled."""
        return self.labels[0] if self.labels else None


@dataclass(frozen=True, kw_only=True)
class Track:
    """A song: its stems start together and it is as long as the longest of them."""

    track_id: str
    """Unique in the corpus and stable across machines."""
    stems: tuple[Stem, ...]
    split: Split | None = None
    """As published by the corpus; None where it has none."""
    artist: str | None = None
    title: str | None = None
    genre: str | None = None
    """In the corpus's own words."""


class Corpus(Protocol):
    """A reader: where the corpus lies and what is in it."""

    root: Path

    def tracks(self) -> Iterator[Track]:
        """List all tracks, in an order that is the same on every machine."""
        ...


@runtime_checkable
class RenderedCorpus(Corpus, Protocol):
    """A corpus whose audio we make ourselves."""

    def render(self, *, workers: int = 1, executor: Executor | None = None) -> None:
        """Make the audio that is not there yet, in processes or by an executor."""
        ...


def song_key(artist: str | None, title: str | None) -> str | None:
    """Equal for two ways of writing the same song; None where artist or title is unknown.

    Case, accents, spaces, punctuation and guests ("feat. …") do not count, "&" is "and".
    """
    parts = [_plain(part or "") for part in (artist, title)]
    return "/".join(parts) if all(parts) else None


def _plain(text: str) -> str:
    text = _GUESTS.sub("", text).replace("&", " and ")
    # Decomposed, an accent is a character of its own and no letter.
    letters = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in letters if letter.isalnum())


def is_text(name: str) -> bool:
    """Tell whether a name from disk is UTF-8: others cannot stand in tables."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def shown(name: object) -> str:
    r"""Write a name or path from disk for people: bytes that are not UTF-8 as Windows wrote them.

    >>> shown(os.fsdecode(b"H\xf6he"))
    'Höhe'
    """
    text = str(name)
    return text if is_text(text) else os.fsencode(text).decode("cp1252", errors="replace")
