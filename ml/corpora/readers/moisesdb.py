"""MoisesDB (Pereira et al., ISMIR 2023): 240 songs of close-miked and direct recordings.

``ROOT/<provider>/<track uuid>/data.json`` names ``song``, ``artist``, ``genre`` and the ``stems``:
each a ``stemName`` (the category, which may occur twice) with ``tracks`` (its files), whose audio
is ``<track>/<stemName>/<id>.<extension>``. A file that is listed is listed here too, there or not:
the scan tells what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ml.corpora.readers.listing import (
    id_of,
    list_of,
    mapping_of,
    nothing_found,
    read_json_metadata,
    subfolders,
    text_of,
    yes_or_no,
)
from ml.labels.names import Labels, moisesdb_labels
from ml.tracks import CorpusError, Stem, Track

KIND = "moisesdb"
LOOKED_FOR = "<provider>/<track uuid>/data.json"
METADATA_NAME = "data.json"

Unit = Literal["file", "type"]


@dataclass(frozen=True, kw_only=True)
class _File:
    path: Path
    stem_name: str
    labels: Labels
    has_bleed: bool | None


class MoisesDbCorpus:
    """The songs by provider and uuid. There are no published splits."""

    def __init__(self, root: Path, unit: Unit = "file") -> None:
        """Look whether there is a song; nothing is decoded.

        Args:
            root: the folder that holds the provider's folder (``moisesdb_v0.1``).
            unit: what a stem is: ``file``: each file (2,585 stems, as Riou et al. count), or
                ``type``: all files of one category and type of a song, summed.

        Raises:
            CorpusError: there is no song (says what was looked for and what was found), or an
                unknown ``unit``.
        """
        if unit not in get_args(Unit):
            raise CorpusError(f"unit = {unit!r} for {root}; expected 'file' or 'type'")
        self.root = Path(root)
        self._unit = unit
        if not holds_corpus(self.root):
            raise nothing_found(self.root, KIND, LOOKED_FOR)

    def tracks(self) -> Iterator[Track]:
        """List all songs that have files.

        Raises:
            CorpusError: a ``data.json`` is broken; names it.
        """
        for folder in _track_folders(self.root):
            track = self._track(folder)
            if track.stems:
                yield track

    def _track(self, folder: Path) -> Track:
        path = folder / METADATA_NAME
        data = read_json_metadata(path)
        track_id = id_of(folder.name)
        files = _files(data, path)
        return Track(
            track_id=track_id,
            stems=_stems_by_file(track_id, files)
            if self._unit == "file"
            else _stems_by_type(track_id, files),
            artist=text_of(data.get("artist")) or None,
            title=text_of(data.get("song")) or None,
            genre=text_of(data.get("genre")) or None,
        )


def holds_corpus(root: Path) -> bool:
    """Tell whether some song lies in a folder of the root."""
    return any(True for _ in _track_folders(root))


def _track_folders(root: Path) -> Iterator[Path]:
    for provider in subfolders(root):
        for folder in subfolders(provider):
            if (folder / METADATA_NAME).is_file():
                yield folder


def _files(data: dict[str, Any], path: Path) -> list[_File]:
    """List the files of a song as its metadata do; one that is listed twice counts once."""
    files: dict[Path, _File] = {}
    for item in list_of(data.get("stems"), path, "stems"):
        stem = mapping_of(item, path, "stems")
        name = text_of(stem.get("stemName"))
        for entry in list_of(stem.get("tracks"), path, f"tracks of stem {name!r}"):
            file = _file(mapping_of(entry, path, f"tracks of stem {name!r}"), name, path)
            files.setdefault(file.path, file)
    return list(files.values())


def _file(entry: dict[str, Any], stem_name: str, path: Path) -> _File:
    file_id, extension = text_of(entry.get("id")), text_of(entry.get("extension"))
    if not (stem_name and file_id and extension):
        raise CorpusError(
            f"{path}: stem {stem_name!r} has file {file_id!r} with extension {extension!r}, "
            "expected a stemName, an id and an extension; extract the corpus again"
        )
    return _File(
        path=path.parent / stem_name / f"{file_id}.{extension.removeprefix('.')}",
        stem_name=stem_name,
        labels=moisesdb_labels(stem_name, text_of(entry.get("trackType"))),
        has_bleed=yes_or_no(entry.get("has_bleed")),
    )


def _stems_by_file(track_id: str, files: list[_File]) -> tuple[Stem, ...]:
    return tuple(
        Stem(
            stem_id=id_of(f"{track_id}/{file.stem_name}/{file.path.stem}"),
            files=(file.path,),
            labels=file.labels,
            has_bleed=file.has_bleed,
        )
        for file in files
    )


def _stems_by_type(track_id: str, files: list[_File]) -> tuple[Stem, ...]:
    groups: dict[tuple[str, Labels], list[_File]] = {}
    for file in files:
        groups.setdefault((file.stem_name, file.labels), []).append(file)
    return tuple(
        Stem(
            stem_id=id_of(f"{track_id}/{stem_name}/{labels[-1]}"),
            files=tuple(file.path for file in parts),
            labels=labels,
            has_bleed=_any_bleed(parts),
        )
        for (stem_name, labels), parts in groups.items()
    )


def _any_bleed(files: list[_File]) -> bool | None:
    """Tell whether a file has bleed; None if none is said to and one is not spoken of."""
    said = {file.has_bleed for file in files}
    return True if True in said else None if None in said else False
