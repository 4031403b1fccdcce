"""What a corpus is: tracks made of stems made of files. Readers live beside this module.

``open_corpus`` is the one door; a reader only lists what is on disk and never decodes audio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Split = Literal["train", "valid", "test"]

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


class Corpus(Protocol):
    """A reader: where the corpus lies and what is in it."""

    root: Path

    def tracks(self) -> Iterator[Track]:
        """All tracks, in an order that is the same on every machine."""
        ...


def open_corpus(kind: str, root: str | Path, **options: Any) -> Corpus:
    """Open a corpus by the kind of its layout.

    Args:
        kind: one of ``READERS``.
        root: folder of the corpus, or the CSV for ``manifest``.
        options: what the reader of that kind takes.

    Raises:
        CorpusError: an unknown kind, a root that does not exist, or one that does not look like
            a corpus of this kind (the message says what was looked for).
    """
    readers = _readers()
    if kind not in readers:
        known = ", ".join(sorted(readers))
        raise CorpusError(f"corpus kind {kind!r} is unknown; expected one of: {known}")
    root = Path(root).expanduser().resolve()
    if not root.exists():
        raise CorpusError(f"{root} does not exist; give the root of the {kind} corpus")
    try:
        return readers[kind](root, **options)
    except TypeError as error:
        raise CorpusError(f"corpus kind {kind!r} at {root}: {error}") from None


def _readers() -> dict[str, Callable[..., Corpus]]:
    from ml.corpora.demo.reader import DemoCorpus
    from ml.corpora.folder import FolderCorpus
    from ml.corpora.manifest import ManifestCorpus

    return {"demo": DemoCorpus, "folder": FolderCorpus, "manifest": ManifestCorpus}
