"""Embeddings of a corpus in parts, so that a pass that was stopped goes on where it was.

A part is a run of whole tracks, about an hour of stems: its vectors are held in memory while it is
made, and no more than it is lost when the process is killed. ``parts/NNNNNN/`` in the folder of the
embeddings holds the files that the whole will have, with the rows of its tracks;
``parts/begun.json`` says what they are parts of. Batches end where a part ends: the rows are the
same bits whether or not a pass was stopped in between. When all are made they are joined, in order.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.artifacts import (
    MANIFEST_NAME,
    ArtifactError,
    fingerprint,
    read_json,
    write_folder_aside,
    write_json,
)
from ml.corpora.corpus import Track
from ml.locks import lock
from ml.progress import progress
from ml.retrieval.embedding_files import join_tables, write_table
from ml.retrieval.embedding_source import EmbeddingSource
from ml.retrieval.mixes import TrackAudio, read_tracks

if TYPE_CHECKING:
    import pyarrow as pa

PARTS = "parts"
PART_S = 3600.0
"""Seconds of stems in a part; the last track may reach beyond."""
_BEGUN = "begun.json"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A run of tracks of a source."""

    number: int
    tracks: Sequence[Track]
    stems: slice
    """Their stems among all those of the source."""


PartTables = Mapping[str, Mapping[str, "pa.Table"]]
"""model_id → file name → table."""

EmbedPart = Callable[[Part, Sequence[str], Iterator[TrackAudio]], PartTables]
"""A part, the model_ids that it is asked of and the audio of its tracks → its tables."""

EmbedParts = Callable[[Sequence[tuple[Part, Sequence[str]]]], Iterable[tuple[Part, PartTables]]]
"""Parts, each with the model_ids that it is asked of → the same parts in any order, with their
tables."""


def parts_of(source: EmbeddingSource) -> list[Part]:
    """The parts of a source: a pure function of its tracks and their lengths."""
    length_s = dict(zip(source.table["stem_id"], source.table["duration_s"], strict=True))
    lengths_s = (sum(length_s[stem.stem_id] for stem in track.stems) for track in source.tracks)
    begins_s = itertools.accumulate(lengths_s, initial=0.0)
    places = [int(begin_s // PART_S) for begin_s in begins_s]
    parts, first = [], 0
    for _, group in itertools.groupby(
        zip(places[:-1], source.tracks, strict=True), key=lambda placed: placed[0]
    ):
        tracks = [track for _, track in group]
        stop = first + sum(len(track.stems) for track in tracks)
        parts.append(Part(number=len(parts), tracks=tracks, stems=slice(first, stop)))
        first = stop
    return parts


@contextlib.contextmanager
def begun_parts(
    folders: Mapping[str, Path], identities: Mapping[str, Any], format_version: int
) -> Iterator[None]:
    """Hold the locks of folders of embeddings, with parts of these identities and no others.

    Args:
        folders: model_id → folder.
        identities: model_id → what the whole will be made from.
        format_version: of the files.

    Raises:
        LockedError: another process embeds the same.
    """
    with contextlib.ExitStack() as locks:
        for model_id, folder in folders.items():
            locks.enter_context(lock(folder / ".lock"))
            _begin(folder, identities[model_id], format_version)
        yield


def _begin(folder: Path, identity: Mapping[str, Any], format_version: int) -> None:
    parts = folder / PARTS
    version = fingerprint({"of": identity, "format_version": format_version, "part_s": PART_S})
    try:
        is_same = read_json(parts / _BEGUN) == version
    except ArtifactError:
        is_same = False
    if not is_same:
        (parts / _BEGUN).unlink(missing_ok=True)
        shutil.rmtree(parts, ignore_errors=True)
        write_json(parts / _BEGUN, version)


def make_parts(
    source: EmbeddingSource,
    folders: Mapping[str, Path],
    embed: EmbedPart,
    *,
    rate_hz: int,
    label: str,
) -> None:
    """Make the parts that are missing, in one pass over the tracks that these need.

    Args:
        source: what is embedded.
        folders: model_id → folder of its embeddings, locked and begun.
        embed: makes one.
        rate_hz: sample rate of the audio.
        label: of the progress.
    """
    missing = _missing(source, folders)
    tracks = [track for part, _ in missing for track in part.tracks]
    audios = progress(
        read_tracks(tracks, rate_hz),
        total=len(source.tracks),
        done=len(source.tracks) - len(tracks),
        label=label,
    )
    for part, model_ids in missing:
        made = embed(part, model_ids, itertools.islice(audios, len(part.tracks)))
        _keep(part, folders, made)
    next(audios, None)  # so that the progress ends


def gather_parts(
    source: EmbeddingSource, folders: Mapping[str, Path], embed: EmbedParts, *, label: str
) -> None:
    """Have the parts that are missing made elsewhere, and write each as it comes.

    Args:
        source: what is embedded.
        folders: model_id → folder of its embeddings, locked and begun.
        embed: has them made.
        label: of the progress.
    """
    missing = _missing(source, folders)
    total = len(parts_of(source))
    done = total - len(missing)
    for part, made in progress(embed(missing), total=total, done=done, label=f"{label}, parts"):
        _keep(part, folders, made)


def _missing(
    source: EmbeddingSource, folders: Mapping[str, Path]
) -> list[tuple[Part, Sequence[str]]]:
    """Parts that are not there for all models, with the model_ids that they are missing for."""
    wanted = [
        (part, [m for m, folder in folders.items() if not _path(folder, part).is_dir()])
        for part in parts_of(source)
    ]
    return [(part, model_ids) for part, model_ids in wanted if model_ids]


def _keep(part: Part, folders: Mapping[str, Path], made: PartTables) -> None:
    for model_id, tables in made.items():
        with write_folder_aside(_path(folders[model_id], part)) as aside:
            for name, table in tables.items():
                write_table(table, aside / name)


def join_parts(source: EmbeddingSource, folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Write the files of these names from all parts; returns how many rows each has.

    From here until the caller writes a new one there is no manifest: what is on disk is neither
    the old embeddings nor all of the new ones.
    """
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    paths = [_path(folder, part) for part in parts_of(source)]
    return {name: join_tables([path / name for path in paths], folder / name) for name in names}


def remove_parts(folder: Path) -> None:
    """Remove what is no longer needed once the manifest is written."""
    aside = folder / f".{PARTS}.tmp"  # if killed now, ``stems gc`` removes what is left
    shutil.rmtree(aside, ignore_errors=True)
    (folder / PARTS).rename(aside)
    shutil.rmtree(aside)


def _path(folder: Path, part: Part) -> Path:
    return folder / PARTS / f"{part.number:06d}"
