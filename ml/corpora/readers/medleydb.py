"""MedleyDB (Bittner et al., ISMIR 2014) and its second version.

``[Audio|V1|V2]/<ID>/<ID>_STEMS/<ID>_STEM_01.wav``; the mix and the ``_RAW`` recordings are not
read. What plays is in ``<ID>_METADATA.yaml``, which is published apart from the audio
(github.com/marl/medleydb, ``medleydb/data/Metadata``).
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
from ml.labels.names import medleydb_labels
from ml.tracks import CorpusError, Stem, Track

KIND = "medleydb"
LOOKED_FOR = "<ID>/<ID>_STEMS/*.wav in it or in its folders Audio, V1 or V2"
METADATA_SUFFIX = "_METADATA.yaml"

_AUDIO_FOLDERS = ("", "Audio", "V1", "V2")
_METADATA_FOLDERS = ("", "Metadata", "data/Metadata", "medleydb/data/Metadata")
"""Where the metadata are looked for below a folder: as published, or a clone of the repository."""


class MedleyDbCorpus:
    """The songs by their ID (``Artist_Title``). There are no published splits."""

    def __init__(self, root: Path, metadata: str | Path | None = None) -> None:
        """Look where the songs and their metadata are; nothing is decoded.

        Args:
            root: the folder that holds ``Audio``, ``V1``, ``V2`` or the songs themselves.
            metadata: the folder of the ``_METADATA.yaml`` files, or a clone of the repository that
                has them (relative to ``root``). None: the usual places in ``root`` and beside it.
                What is not there is looked for beside the audio.

        Raises:
            CorpusError: there is no song (says what was looked for and what was found), or no
                metadata in ``metadata``.
        """
        self.root = Path(root)
        if not holds_corpus(self.root):
            raise nothing_found(self.root, KIND, LOOKED_FOR)
        if metadata is None:
            self._places = [self.root, self.root.parent]
        else:
            self._places = [self.root / Path(metadata).expanduser()]
        self._metadata = {
            id_of(path.name[: -len(METADATA_SUFFIX)]): path
            for place in reversed(self._places)
            for name in reversed(_METADATA_FOLDERS)
            for path in file_paths(place / name)
            if path.name.endswith(METADATA_SUFFIX)
        }
        if metadata is not None and not self._metadata:
            raise CorpusError(
                f"metadata = {self._places[0]} holds no *{METADATA_SUFFIX} (nor do its folders "
                f"{', '.join(_METADATA_FOLDERS[1:])}); give the folder that does"
            )

    def tracks(self) -> Iterator[Track]:
        """List all songs that have stems, sorted by ID.

        Raises:
            CorpusError: the metadata of a song are missing or broken; names the file.
        """
        for folder, audio in sorted(_songs(self.root), key=lambda song: id_of(song[0].name)):
            yield self._track(folder, audio)

    def _track(self, folder: Path, audio: list[Path]) -> Track:
        track_id = id_of(folder.name)
        path = self._metadata_path(folder)
        data = read_yaml_metadata(path)
        instruments = _instruments(data, path, track_id)
        there = {id_of(file.name): file for file in audio}
        stems_folder = audio[0].parent
        return Track(
            track_id=track_id,
            stems=tuple(
                Stem(
                    stem_id=f"{track_id}/{Path(name).stem.removeprefix(f'{track_id}_')}",
                    files=(there.get(name, stems_folder / name),),
                    labels=medleydb_labels(instruments.get(name, "")),
                    has_bleed=yes_or_no(data.get("has_bleed")),
                )
                for name in sorted(there.keys() | instruments.keys())
            ),
            artist=text_of(data.get("artist")) or None,
            title=text_of(data.get("title")) or None,
            genre=text_of(data.get("genre")) or None,
        )

    def _metadata_path(self, folder: Path) -> Path:
        beside = folder / f"{folder.name}{METADATA_SUFFIX}"
        found = self._metadata.get(id_of(folder.name))
        if found is None and not beside.is_file():
            places = " and ".join(map(str, self._places))
            raise CorpusError(
                f"there is no {beside.name}: looked in {folder}, in {places} and in their folders "
                f"{', '.join(_METADATA_FOLDERS[1:])}; get the metadata from "
                "github.com/marl/medleydb and name their folder with the option metadata=FOLDER"
            )
        return found or beside


def holds_corpus(root: Path) -> bool:
    """Tell whether some song with stems is below the root."""
    return any(True for _ in _songs(root))


def _songs(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """List the folder of each song and its stem files."""
    for name in _AUDIO_FOLDERS:
        for folder in subfolders(root / name):
            listed = file_paths(folder / f"{folder.name}_STEMS")
            audio = [path for path in listed if path.suffix.lower() == ".wav"]
            if audio:
                yield folder, audio


def _instruments(data: dict[str, Any], path: Path, track_id: str) -> dict[str, str | list[str]]:
    """Map each stem's file name to ``instrument`` as written: a text or a list of texts."""
    found = {}
    for key, value in mapping_of(data.get("stems"), path, "stems").items():
        stem = mapping_of(value, path, f"stems: {key}")
        name = text_of(stem.get("filename")) or f"{track_id}_STEM_{key.removeprefix('S')}.wav"
        instrument = stem.get("instrument")
        found[id_of(name)] = (
            [text_of(item) for item in instrument]
            if isinstance(instrument, list)
            else text_of(instrument)
        )
    return found
