"""A corpus that is only folders: one folder a track, one audio file a stem.

``ROOT/<track>/<stem>.<wav|flac|ogg|mp3|m4a|…>``. Files that are named like a whole mix
(``mix``, ``mixture``, ``master``) are left out: a mix is the sum of its stems.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ml.audio.files import AUDIO_SUFFIXES
from ml.labels.taxonomy import category_of
from ml.tracks import CorpusError, Stem, Track

MIX_NAMES = frozenset(("mix", "mixture", "master", "full mix", "linear mixture"))


class FolderCorpus:
    """The tracks below a folder, sorted by name."""

    def __init__(self, root: Path, labels: Literal["names", "none"] = "names") -> None:
        """List the folder; no audio file is opened.

        Args:
            root: the folder that holds the track folders.
            labels: ``names``: a stem's label is its cleaned file name (``02_Acoustic-Guitar 1``
                gives "acoustic guitar", and the category before it where the taxonomy knows the
                text); ``none``: stems are unlabelled.

        Raises:
            CorpusError: not a folder, no audio in its folders, or an unknown ``labels``.
        """
        if labels not in ("names", "none"):
            raise CorpusError(f"labels = {labels!r} for {root}; expected 'names' or 'none'")
        self.root = Path(root)
        self._labels = labels
        _require_tracks(self.root)

    def tracks(self) -> Iterator[Track]:
        """List all track folders that hold audio, sorted by name."""
        for folder in sorted(path for path in self.root.iterdir() if path.is_dir()):
            files = _stem_files(folder)
            if files:
                yield Track(track_id=folder.name, stems=self._stems(folder.name, files))

    def _stems(self, track_id: str, files: list[Path]) -> tuple[Stem, ...]:
        names = [path.stem for path in files]
        return tuple(
            Stem(
                stem_id=f"{track_id}/{path.name if names.count(path.stem) > 1 else path.stem}",
                files=(path,),
                labels=labels_of_name(path.stem, track_id) if self._labels == "names" else (),
            )
            for path in files
        )


def labels_of_name(name: str, track_id: str = "") -> tuple[str, ...]:
    """Read the labels off a file name without suffix: none, one, or category and text."""
    text = _clean(name.removeprefix(track_id))
    if not text:
        return ()
    category = category_of(text)
    return (text,) if category in (None, text) else (category, text)


def _clean(name: str) -> str:
    """Reduce to lower-case words without the small numbers and the word "stem" around them."""
    words = re.sub(r"[\W_]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).lower()
    words = re.sub(r"^(\d{1,2}(?!\w)|stems?(?!\w)|\s)+", "", words)
    return re.sub(r"((?<!\w)\d{1,2}|(?<!\w)stems?|\s)+$", "", words).strip()


def _stem_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
        and _clean(path.stem.removeprefix(folder.name)) not in MIX_NAMES
    )


def _require_tracks(root: Path) -> None:
    expected = "expected one folder per track with one audio file per stem in it"
    if not root.is_dir():
        raise CorpusError(f"{root} is not a folder; {expected} (for a CSV use 'manifest')")
    if any(_stem_files(path) for path in root.iterdir() if path.is_dir()):
        return
    if _stem_files(root):
        raise CorpusError(f"{root} holds audio files itself; {expected}")
    raise CorpusError(f"{root} holds no audio; {expected} ({', '.join(sorted(AUDIO_SUFFIXES))})")
