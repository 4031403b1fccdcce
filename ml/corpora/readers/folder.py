"""A corpus that is only folders: one folder a track, one audio file a stem.

``ROOT/<track>/<stem>.<wav|flac|ogg|mp3|m4a|…>``. Nothing is left out in silence: ``notes`` names
files called like a whole mix ("Master v2": a mix is the sum of its stems; "Drum Mix" is a stem),
folders without audio of their own, songs whose stems are zipped or lie one folder deeper, and names
of stems that say no instrument or may say another.

WAVs of a session that were not bounced from zero say in ``bext`` where they begin; where all stems
of a track say so, that is where they start.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ml.audio.files import AUDIO_SUFFIXES
from ml.audio.headers import read_header
from ml.corpora.readers.listing import id_of
from ml.labels.spellings import read_spelling
from ml.tracks import CorpusError, Stem, Track

_MIX_WORDS = frozenset(
    (
        *("bounce", "master", "mastered", "mastering", "masters", "mix", "mixdown", "mixed"),
        *("mixes", "mixture", "premaster", "ref", "reference", "rendered"),
    )
)
_FILLERS = frozenset(
    (
        *("a", "alt", "bit", "cd", "demo", "dry", "edit", "export", "final", "full", "hd", "hq"),
        *("k", "khz", "l", "limited", "linear", "loud", "lr", "main", "mp", "new", "old", "out"),
        *("output", "pre", "print", "project", "quiet", "r", "rev", "rough", "song", "st"),
        *("stereo", "take", "the", "tk", "track", "unmastered", "v", "ver", "version", "wav"),
        *("wet", "whole"),
    )
)
"""Words that stand beside these in the name of a mix."""
_ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz")
_SHOWN = 5
_MAX_PLACE_S = 6 * 3600.0


class FolderCorpus:
    """The tracks below a folder, sorted by name."""

    def __init__(self, root: Path, labels: Literal["names", "none"] = "names") -> None:
        """List the folder; no audio file is decoded.

        Args:
            root: the folder that holds the track folders.
            labels: ``names``: a stem's labels are read off its file name (``02_Ac-Gtr 1`` gives
                "guitar" and "acoustic guitar"; words that are not known stay as they are);
                ``none``: stems are unlabelled.

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
        for folder in _folders(self.root):
            files = _stem_files(folder)
            if files:
                track_id = id_of(folder.name)
                yield Track(track_id=track_id, stems=self._stems(track_id, files))

    def notes(self) -> list[str]:
        """Say what was not read and why, or read with doubt, a sentence for each reason."""
        mixes, deeper, zipped, empty, moved = [], [], [], [], []
        for folder in _folders(self.root):
            listed = sorted(folder.iterdir())
            mixes += [f"{folder.name}/{p.name}" for p in listed if _is_audio(p) and _is_mix(p)]
            below = [path for path in listed if path.is_dir() and _has_audio(path)]
            moved += [folder.name] if _has_other_places(_stem_files(folder)) else []
            deeper += [f"{folder.name}/{path.name}" for path in below]
            if not below and not any(map(_is_audio, listed)):
                has_archive = any(path.suffix.lower() in _ARCHIVES for path in listed)
                (zipped if has_archive else empty).append(folder.name)
        stray = [path.name for path in sorted(self.root.iterdir()) if _is_audio(path)]
        reasons = {
            "named like a mix, which is the sum of the stems": mixes,
            "with audio one folder deeper than stems lie: move it up, or list it in a CSV": deeper,
            "with an archive and no audio: unpack it": zipped,
            "without audio": empty,
            "of audio outside of any track's folder": stray,
        }
        notes = [_listed(f"left out, {why}", names) for why, names in reasons.items() if names]
        if moved:
            what = "tracks whose files say that they start apart, and not all of them or too far"
            notes.append(_listed(f"{what}; read as if they started together", moved))
        return notes + self._notes_on_names()

    def _notes_on_names(self) -> list[str]:
        if self._labels == "none":
            return []
        doubted, unread = {}, {}
        for track in self.tracks():
            for stem in track.stems:
                name = id_of(stem.files[0].stem).removeprefix(track.track_id)
                reading = read_spelling(name)
                if reading.labels and not reading.is_sure:
                    doubted[f"{name} ({' > '.join(reading.labels)})"] = None
                elif not reading.labels:
                    unread[name] = None
        return [
            *([_listed("names of stems read with doubt", list(doubted))] if doubted else []),
            *(
                [_listed("names of stems say no instrument that is known", list(unread))]
                if unread
                else []
            ),
        ]

    def _stems(self, track_id: str, files: list[Path]) -> tuple[Stem, ...]:
        names = [id_of(path.stem) for path in files]
        return tuple(
            Stem(
                stem_id=f"{track_id}/{id_of(path.name) if names.count(name) > 1 else name}",
                files=(path,),
                labels=labels_of_name(name, track_id) if self._labels == "names" else (),
                start_s=start_s,
            )
            for path, name, start_s in zip(files, names, _starts(files), strict=True)
        )


def labels_of_name(name: str, track_id: str = "") -> tuple[str, ...]:
    """Read the labels off a file name without suffix: none, one, or category and text.

    >>> labels_of_name("OH L"), labels_of_name("hurdy gurdy 2")
    (('drums', 'overheads'), ('hurdy gurdy',))
    """
    name = unicodedata.normalize("NFC", name).removeprefix(unicodedata.normalize("NFC", track_id))
    if labels := read_spelling(name).labels:
        return labels
    text = _clean(name)
    return (text,) if text else ()


def _listed(what: str, names: Sequence[str]) -> str:
    more = ", …" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(map(id_of, names[:_SHOWN]))}{more}"


@lru_cache(maxsize=4096)
def _clean(name: str) -> str:
    """Reduce to lower-case words without the small numbers and the word "stem" around them."""
    words = re.sub(r"[\W_]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).lower()
    words = re.sub(r"^(\d{1,2}(?!\w)|stems?(?!\w)|\s)+", "", words)
    return re.sub(r"((?<!\w)\d{1,2}|(?<!\w)stems?|\s)+$", "", words).strip()


def _folders(root: Path) -> list[Path]:
    return sorted((path for path in root.iterdir() if path.is_dir()), key=lambda p: id_of(p.name))


def _stem_files(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if _is_audio(path) and not _is_mix(path)]
    return sorted(files, key=lambda path: id_of(path.name))


def _is_audio(path: Path) -> bool:
    return (
        path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _has_audio(folder: Path) -> bool:
    return any(map(_is_audio, folder.iterdir()))


def _is_mix(path: Path) -> bool:
    """Tell whether a file is named like a mix: a word for it, and beside it none but fillers."""
    name = _clean(id_of(path.stem)).removeprefix(_clean(id_of(path.parent.name)))
    words = re.sub(r"(?<=[a-z])(?=\d)|(?<=\d)(?=[a-z])", " ", name).split()
    said = {word for word in words if not word.isdigit()}
    is_named = bool(said & _MIX_WORDS) or {"stereo", "out"} <= said
    return is_named and said <= _MIX_WORDS | _FILLERS


def _starts(files: Sequence[Path]) -> list[float]:
    """Place files by their ``bext`` time stamps, in s from the earliest; 0 where one has none."""
    places = [place for path in files if (place := _place_s(path)) is not None]
    if len(places) < len(files) or max(places) - min(places) > _MAX_PLACE_S:
        return [0.0] * len(files)
    return [place - min(places) for place in places]


def _place_s(path: Path) -> float | None:
    try:
        return read_header(path).place_s if path.suffix.lower() == ".wav" else None
    except OSError:
        return None  # the scan says so


def _has_other_places(files: Sequence[Path]) -> bool:
    """Tell whether time stamps differ and yet all files start at 0."""
    places = {_place_s(path) for path in files} - {None}
    return len(places) > 1 and not any(_starts(files))


def _require_tracks(root: Path) -> None:
    expected = "expected one folder per track with one audio file per stem in it"
    if not root.is_dir():
        raise CorpusError(f"{root} is not a folder; {expected} (for a CSV use 'manifest')")
    folders = _folders(root)
    if any(_stem_files(path) for path in folders):
        return
    if _stem_files(root):
        raise CorpusError(f"{root} holds audio files itself; {expected}")
    deeper = (below for folder in folders for below in _folders(folder) if _has_audio(below))
    if found := next(deeper, None):
        where = found.relative_to(root)
        raise CorpusError(
            f"{root} holds audio one folder deeper than stems lie ({where}{os.sep}…); {expected}: "
            f"move it up, give {found.parent} as the root if its folders are tracks, or list it in "
            "a CSV (kind manifest)"
        )
    raise CorpusError(f"{root} holds no audio; {expected} ({', '.join(sorted(AUDIO_SUFFIXES))})")
