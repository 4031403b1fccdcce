"""``open_corpus``: the one door to all readers, by the kind of a corpus's layout.

``files_fingerprint`` says whether a corpus has changed, for who asks often (the observed asset
``corpus_files``): by name, size and time of its files, none of which is opened. The corpus itself
is compared by content when it is scanned.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
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
_MAX_DEPTH = 16
"""Folders below the root; a link that leads back up ends here."""


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
    from ml.corpora.demo.build import DemoCorpus
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
    from ml.corpora.readers.listing import subfolders

    checks = {k: getattr(inspect.getmodule(x), "holds_corpus", None) for k, x in _readers().items()}
    fits: dict[str, Callable[[Path], bool]] = {k: check for k, check in checks.items() if check}
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


def files_fingerprint(kind: str, root: Path, options: Mapping[str, Any] | None = None) -> str:
    """Digest path, size and time of every file of a corpus.

    A folder is walked, whatever its kind reads of it. Where the root is a file (kind
    ``manifest``), it is that file and the files it names.

    Args:
        kind: of the corpus.
        root: its folder, or the file that lists it.
        options: of its reader.

    Returns:
        32 hex digits, equal for two walks over the same files.

    Raises:
        CorpusError: there is no such root, or the list is damaged.
        OSError: a folder cannot be listed.
    """
    digest = hashlib.blake2b(digest_size=16)
    files = _walk(root) if root.is_dir() else _listed(kind, root, options or {})
    for path, size, time_ns in files:
        digest.update(f"{path}\0{size}\0{time_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _walk(folder: Path | str, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, int, int]]:
    """Yield path below the root, size and time of each file, in the order of paths."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{prefix}{entry.name}"
        if not entry.is_dir():
            yield path, *_size_and_time(entry)
        elif depth < _MAX_DEPTH:
            yield from _walk(entry.path, f"{path}/", depth + 1)


def _listed(kind: str, root: Path, options: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    tracks = open_corpus(kind, root, **options).tracks()
    paths = {str(path) for track in tracks for stem in track.stems for path in stem.files}
    for name in sorted({str(root), *paths}):
        yield name, *_size_and_time(Path(name))


def _size_and_time(file: os.DirEntry[str] | Path) -> tuple[int, int]:
    try:
        state = file.stat()
    except FileNotFoundError:  # a link to nothing, or gone since the folder was listed
        return -1, 0
    return state.st_size, state.st_mtime_ns
