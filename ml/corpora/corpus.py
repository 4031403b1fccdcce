"""What a corpus is: tracks made of stems made of files. Readers live beside this module.

``open_corpus`` is the one door; a reader only lists what is on disk and never decodes audio.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

Split = Literal["train", "valid", "test"]

Kind = Literal[
    "beats", "demo", "folder", "manifest", "medleydb", "moisesdb", "musdb18", "slakh2100"
]

KINDS: dict[Kind, str] = {
    "beats": "recordings with annotated beats",
    "demo": "songs that stems demo made",
    "folder": "one folder a track, one file a stem",
    "manifest": "a CSV",
    "medleydb": "MedleyDB, both versions",
    "moisesdb": "MoisesDB",
    "musdb18": "MUSDB18 and MUSDB18-HQ",
    "slakh2100": "Slakh2100 and BabySlakh",
}
"""Layouts that can be read, in a few words each for the command line."""

MUSIC = "music"
"""What a stem without a label is conditioned with (Riou et al., section II-E)."""


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
        """All tracks, in an order that is the same on every machine."""
        ...


def open_corpus(kind: str, root: str | Path, **options: Any) -> Corpus:
    """Open a corpus by the kind of its layout.

    Args:
        kind: one of ``KINDS``.
        root: folder of the corpus, or the CSV for ``manifest``.
        options: what the reader of that kind takes.

    Raises:
        CorpusError: an unknown kind or option, a root that does not exist, or one that does not
            look like a corpus of this kind (the message says what was looked for, what is there,
            and which kind or which folder would fit).
    """
    readers = _readers()
    if kind not in readers:
        known = ", ".join(sorted(readers))
        raise CorpusError(f"corpus kind {kind!r} is unknown; expected one of: {known}")
    root = Path(root).expanduser().resolve()
    _require_known_options(kind, readers[kind], options)
    if not root.exists():
        raise CorpusError(f"{root} does not exist; give the root of the {kind} corpus")
    try:
        return readers[kind](root, **options)
    except CorpusError as error:
        raise CorpusError(f"{error}{_hint(kind, root)}") from None


def kinds_help() -> str:
    """All kinds with what they are, for the help of a command."""
    return "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())


def _readers() -> dict[str, Callable[..., Corpus]]:
    from ml.beats.corpus import BeatCorpus
    from ml.corpora.demo.reader import DemoCorpus
    from ml.corpora.folder import FolderCorpus
    from ml.corpora.manifest import ManifestCorpus
    from ml.corpora.medleydb import MedleyDbCorpus
    from ml.corpora.moisesdb import MoisesDbCorpus
    from ml.corpora.musdb18 import Musdb18Corpus
    from ml.corpora.slakh import SlakhCorpus

    return {
        "beats": BeatCorpus,
        "demo": DemoCorpus,
        "folder": FolderCorpus,
        "manifest": ManifestCorpus,
        "medleydb": MedleyDbCorpus,
        "moisesdb": MoisesDbCorpus,
        "musdb18": Musdb18Corpus,
        "slakh2100": SlakhCorpus,
    }


def _require_known_options(
    kind: str, reader: Callable[..., Corpus], options: dict[str, Any]
) -> None:
    _, *accepted = inspect.signature(reader).parameters  # the first is the root
    if unknown := [name for name in options if name not in accepted]:
        raise CorpusError(
            f"corpus kind {kind!r} has no option {', '.join(map(repr, unknown))}; it takes "
            f"{', '.join(accepted) or 'none'}"
        )


def _hint(kind: str, root: Path) -> str:
    """For a root that was refused: the kind that would fit it, or the folder near it that fits."""
    from ml.corpora import medleydb, moisesdb, musdb18, slakh
    from ml.corpora.listing import subfolders

    fits = {reader.KIND: reader.holds_corpus for reader in (medleydb, moisesdb, musdb18, slakh)}
    is_own = fits.get(kind, lambda _: False)
    try:
        if is_own(root):
            return ""
        for other, is_other in fits.items():
            if is_other(root):
                return f"; it looks like a corpus of kind {other}"
        near = filter(is_own, (root.parent, *islice(subfolders(root), 100)))
        return "".join(f"; {folder} does: give that as the root" for folder in islice(near, 1))
    except CorpusError:  # a folder that may not be listed: there is nothing to add to the refusal
        return ""
