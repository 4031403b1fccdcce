"""MUSDB18 (Rafii et al. 2017) and MUSDB18-HQ: 150 songs of four stems.

``ROOT/{train,test}/Artist - Title.stem.mp4`` (audio streams 0 mixture, 1 drums, 2 bass, 3 other,
4 vocals, then perhaps a picture) or ``ROOT/{train,test}/Artist - Title/{drums,bass,…}.wav``. Both
give the same ids; where a song is there in both, the wav files are read. The mixture never is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ml.corpora.readers.listing import file_paths, id_of, nothing_found, subfolders
from ml.labels.names import MUSDB18
from ml.tracks import Split, Stem, Track

KIND = "musdb18"
LOOKED_FOR = (
    "train/ and test/ with 'Artist - Title.stem.mp4' files, or with 'Artist - Title' folders of "
    "drums.wav, bass.wav, other.wav and vocals.wav"
)
STEM_SUFFIX = ".stem.mp4"

VALIDATION_TRACKS = frozenset(
    (
        *("ANiMAL - Rockshow", "Actions - One Minute Smile", "Alexander Ross - Goodbye Bolero"),
        *("Clara Berry And Wooldog - Waltz For My Victims", "Fergessen - Nos Palpitants"),
        *("James May - On The Line", "Johnny Lokke - Promises & Lies", "Leaf - Summerghost"),
        *("Meaxic - Take A Step", "Patrick Talbot - A Reason To Leave", "Triviul - Angelsaint"),
        *("Skelpolu - Human Mistakes", "Traffic Experiment - Sirens", "Young Griffo - Pennies"),
    )
)
"""The 14 songs of the training folder that the ``musdb`` package publishes as validation split."""

_FOLDERS: tuple[Literal["train", "test"], ...] = ("train", "test")
_WAV_NAMES = frozenset(f"{name}.wav" for name in MUSDB18)


class Musdb18Corpus:
    """The songs of ``train`` (and the validation songs in it), then those of ``test``."""

    def __init__(self, root: Path) -> None:
        """Look whether there is a song; nothing is decoded.

        Args:
            root: the folder that holds ``train`` and ``test``, or one of the two.

        Raises:
            CorpusError: there is none; says what was looked for and what was found.
        """
        self.root = Path(root)
        if not holds_corpus(self.root):
            raise nothing_found(self.root, KIND, LOOKED_FOR)

    def tracks(self) -> Iterator[Track]:
        """List all songs, sorted by name within ``train`` and ``test``."""
        for folder in _FOLDERS:
            songs = _stem_files(self.root / folder) | _wav_folders(self.root / folder)
            for track_id in sorted(songs):
                yield _track(track_id, songs[track_id], folder)


def holds_corpus(root: Path) -> bool:
    """Tell whether some song lies under ``train`` or ``test``."""
    return any(
        any(_is_stem_file(path) for path in file_paths(root / name))
        or any(_has_wav_stems(path) for path in subfolders(root / name))
        for name in _FOLDERS
    )


def _stem_files(folder: Path) -> dict[str, tuple[Stem, ...]]:
    found = {}
    for path in filter(_is_stem_file, file_paths(folder)):
        track_id = id_of(path.name[: -len(STEM_SUFFIX)])
        found[track_id] = tuple(
            Stem(stem_id=f"{track_id}/{name}", files=(path,), labels=labels, stream=stream)
            for stream, (name, labels) in enumerate(MUSDB18.items(), start=1)
        )
    return found


def _wav_folders(folder: Path) -> dict[str, tuple[Stem, ...]]:
    """List folders with at least one stem; that another is missing is the scan's to say."""
    found = {}
    for path in filter(_has_wav_stems, subfolders(folder)):
        track_id = id_of(path.name)
        found[track_id] = tuple(
            Stem(stem_id=f"{track_id}/{name}", files=(path / f"{name}.wav",), labels=labels)
            for name, labels in MUSDB18.items()
        )
    return found


def _is_stem_file(path: Path) -> bool:
    return path.name.lower().endswith(STEM_SUFFIX)


def _has_wav_stems(folder: Path) -> bool:
    return any(path.name in _WAV_NAMES for path in file_paths(folder))


def _track(track_id: str, stems: tuple[Stem, ...], folder: Literal["train", "test"]) -> Track:
    artist, dash, title = track_id.partition(" - ")
    split: Split = "valid" if folder == "train" and track_id in VALIDATION_TRACKS else folder
    return Track(
        track_id=track_id,
        stems=stems,
        split=split,
        artist=artist if dash else None,
        title=title if dash else track_id,
    )
