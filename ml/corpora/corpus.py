"""``open_corpus``: the one door to all readers, by the kind of a corpus's layout."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from ml.tracks import Corpus, CorpusError, Kind

KINDS: dict[Kind, str] = {
    "beats": "recordings with annotated beats",
    "demo": "songs that stems demo made",
    "folder": "one folder a track, one file a stem",
    "manifest": "a CSV",
    "medleydb": "MedleyDB, both versions",
    "midi": "MIDI files, played through soundfonts",
    "moisesdb": "MoisesDB",
    "musdb18": "MUSDB18 and MUSDB18-HQ",
    "slakh2100": "Slakh2100 and BabySlakh",
}
"""Layouts that can be read, in a few words each for the command line."""


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


def notes_of(corpus: Corpus) -> list[str]:
    """Ask a reader what it left out or doubts: a sentence each; most layouts leave nothing out."""
    return getattr(corpus, "notes", list)()


def kinds_help() -> str:
    """Describe all kinds in a line, for the help of a command."""
    return "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())


def _readers() -> dict[str, Callable[..., Corpus]]:
    from ml.corpora.demo.reader import DemoCorpus
    from ml.corpora.midi.corpus import MidiCorpus
    from ml.corpora.readers.beats import BeatCorpus
    from ml.corpora.readers.folder import FolderCorpus
    from ml.corpora.readers.manifest import ManifestCorpus
    from ml.corpora.readers.medleydb import MedleyDbCorpus
    from ml.corpora.readers.moisesdb import MoisesDbCorpus
    from ml.corpora.readers.musdb18 import Musdb18Corpus
    from ml.corpora.readers.slakh import SlakhCorpus

    return {
        "beats": BeatCorpus,
        "demo": DemoCorpus,
        "folder": FolderCorpus,
        "manifest": ManifestCorpus,
        "medleydb": MedleyDbCorpus,
        "midi": MidiCorpus,
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
    """Name the kind that would fit a root that was refused, or the folder near it that fits."""
    from ml.corpora.readers import medleydb, moisesdb, musdb18, slakh
    from ml.corpora.readers.listing import subfolders

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
