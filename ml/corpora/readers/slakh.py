"""Slakh2100 (Manilow et al., WASPAA 2019) and its sample BabySlakh: songs rendered from MIDI.

``ROOT/{train,validation,test,omitted}/TrackNNNNN/`` with ``metadata.yaml`` and
``stems/SNN.flac`` (or ``.wav``); BabySlakh has no folders for splits. A stem is there if its file
is: ``audio_rendered`` is wrong for some.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml.corpora.readers.listing import (
    file_paths,
    id_of,
    mapping_of,
    nothing_found,
    read_yaml_metadata,
    subfolders,
    text_of,
    yes_or_no,
)
from ml.labels.names import Labels, slakh_labels
from ml.tracks import CorpusError, Split, Stem, Track

KIND = "slakh2100"
LOOKED_FOR = (
    "TrackNNNNN/stems/S00.flac (or .wav) in its folders train, validation and test, or in itself "
    "(BabySlakh)"
)
METADATA_NAME = "metadata.yaml"
DRUM_PROGRAM = "128"

_SPLITS: dict[str, Split | None] = {
    "train": "train",
    "validation": "valid",
    "test": "test",
    "omitted": None,
}
_SUFFIXES = (".flac", ".wav")
"""Of stems; where both are there, the first is read."""


class SlakhCorpus:
    """The songs of ``train``, ``validation`` and ``test``, or of a BabySlakh."""

    def __init__(self, root: Path, omitted: bool = False) -> None:
        """Look whether there is a song; nothing is decoded.

        Args:
            root: the folder that holds the splits' folders (or, BabySlakh, the songs).
            omitted: read the songs of ``omitted`` too, without a split: they double songs of other
                splits, so a model that trains on them has heard parts of the test set.

        Raises:
            CorpusError: there is no song (says what was looked for and what was found), the root
                is the folder of one split, or ``omitted`` is not true or false.
        """
        if not isinstance(omitted, bool):
            raise CorpusError(f"omitted = {omitted!r} for {root}; expected true or false")
        self.root = Path(root)
        if self.root.name in _SPLITS and any(True for _ in _songs(self.root)):
            raise CorpusError(
                f"{self.root} is the folder of one split: its songs would lose their split; give "
                f"{self.root.parent}"
            )
        self._folders = [name for name in _SPLITS if omitted or name != "omitted"]
        if not holds_corpus(self.root):
            raise nothing_found(self.root, KIND, LOOKED_FOR)

    def tracks(self) -> Iterator[Track]:
        """List all songs that have stems, sorted by name within their split.

        Raises:
            CorpusError: a ``metadata.yaml`` is missing or broken; names it.
        """
        for name in self._folders:
            for folder, audio in _songs(self.root / name):
                yield _track(folder, audio, _SPLITS[name])
        for folder, audio in _songs(self.root):
            yield _track(folder, audio, None)


def holds_corpus(root: Path) -> bool:
    """Tell whether some song with stems is in the root or in a split's folder (``omitted`` too)."""
    return any(True for name in ("", *_SPLITS) for _ in _songs(root / name))


def _songs(folder: Path) -> Iterator[tuple[Path, dict[str, Path]]]:
    """List the folder of each song and its stem files by name (``S00``)."""
    for song in subfolders(folder):
        if not song.name.startswith("Track"):
            continue
        listed = file_paths(song / "stems")
        audio = {
            id_of(path.stem): path
            for suffix in reversed(_SUFFIXES)
            for path in listed
            if path.suffix == suffix
        }
        if audio:
            yield song, audio


def _track(folder: Path, audio: dict[str, Path], split: Split | None) -> Track:
    track_id = id_of(folder.name)
    path = folder / METADATA_NAME
    described = mapping_of(read_yaml_metadata(path).get("stems"), path, "stems")
    return Track(
        track_id=track_id,
        split=split,
        stems=tuple(
            Stem(
                stem_id=f"{track_id}/{name}",
                files=(audio[name],),
                labels=_labels(mapping_of(described.get(name, {}), path, f"stems: {name}")),
                has_bleed=False,
            )
            for name in sorted(audio)
        ),
    )


def _labels(stem: dict[str, Any]) -> Labels:
    is_drums = yes_or_no(stem.get("is_drum")) or text_of(stem.get("program_num")) == DRUM_PROGRAM
    return slakh_labels(
        text_of(stem.get("inst_class")),
        text_of(stem.get("midi_program_name")),
        is_drums=bool(is_drums),
    )
