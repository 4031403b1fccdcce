"""The recordings of the beat-tracking sets, found by name below a folder.

A file belongs to a track when it is named like the annotation, or as the set distributes it:

=========== ============================================= =========================
set         usual layout                                  annotation
=========== ============================================= =========================
ballroom    ``BallroomData/<Genre>/Media-105901.wav``     ``ballroom_Media-105901``
hainsworth  ``audio/hains001.flac``                       ``hainsworth_001``
smc         ``SMC_MIREX_Audio/SMC_001.wav``               ``smc_001``
gtzan       ``genres/blues/blues.00000.wav`` (or ``.au``) ``gtzan_blues_00000``
harmonix    none: its audio is not distributed            ``0001_12step``
=========== ============================================= =========================

Folders do not matter, nor do upper and lower case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ml.audio.files import AUDIO_SUFFIXES
from ml.corpora.corpus import CorpusError

_SUFFIXES = AUDIO_SUFFIXES | {".au"}
_NAMES = {
    "ballroom": (r"(?:ballroom_)?(.+)", r"ballroom_\1"),
    "hainsworth": (r"hains(?:worth_)?(\d+)", r"hainsworth_\1"),
    "smc": (r"smc_(\d+)", r"smc_\1"),
    "harmonix": (r"(.+)", r"\1"),
    "gtzan": (r"(?:gtzan_)?([a-z]+)[._](\d+)", r"gtzan_\1_\2"),
}

SETS = tuple(_NAMES)
"""The published sets, in the order of the tables."""


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """What was found below a folder."""

    files: dict[str, Path]
    """The recording of each track that has one."""
    unknown: tuple[Path, ...]
    """Audio files that belong to none of the tracks."""
    problems: tuple[str, ...]
    """Tracks with several files, a sentence each."""


def find_recordings(root: Path, set_name: str, track_ids: Sequence[str]) -> Recordings:
    """Find the audio files of tracks below a folder; none is opened.

    Of several files of one track the first in alphabetical order of the paths is taken.

    Args:
        root: the folder, searched with all folders in it.
        set_name: one of ``SETS``; says how files are named.
        track_ids: names of the annotations.

    Raises:
        CorpusError: ``root`` is not a folder.
    """
    if not root.is_dir():
        raise CorpusError(
            f"{root} is not a folder; give the folder that holds the audio of {set_name}"
        )
    ids = {track_id.lower(): track_id for track_id in track_ids}
    files: dict[str, Path] = {}
    unknown: list[Path] = []
    problems: list[str] = []
    for path in _audio_files(root):
        track_id = ids.get(_annotation_name(set_name, path.stem))
        if track_id is None:
            unknown.append(path)
        elif (taken := files.setdefault(track_id, path)) != path:
            problems.append(f"track {track_id} has two recordings: {taken} is used, not {path}")
    return Recordings(files=files, unknown=tuple(unknown), problems=tuple(problems))


def _audio_files(root: Path) -> list[Path]:
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _annotation_name(set_name: str, name: str) -> str:
    pattern, template = _NAMES[set_name]
    found = re.fullmatch(pattern, name.lower())
    return found.expand(template) if found else ""
