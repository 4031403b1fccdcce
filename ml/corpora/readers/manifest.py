"""A corpus listed in a CSV file: one row an audio file.

Columns ``track_id``, ``audio`` (path relative to the CSV's folder, or absolute) and ``labels``
(joined by ``>``, coarse to fine; may be empty); optional ``split``, ``stem_id``, ``start_s``,
``artist``, ``title``; others are ignored. Rows of a track with the same ``stem_id`` are the files
of one stem; without a ``stem_id`` each row is a stem named after its file.
"""

from __future__ import annotations

import csv
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ml.corpora.readers.listing import find_file
from ml.tracks import CorpusError, Split, Stem, Track

REQUIRED_COLUMNS = ("track_id", "audio", "labels")
OPTIONAL_COLUMNS = ("split", "stem_id", "start_s", "artist", "title")
SPLITS = ("train", "valid", "test")
MAX_START_S = 6 * 3600.0
"""A stem that starts later is a mistake; the silence before it would fill the memory."""

_EXPECTED = f"expected a CSV file whose first line names {','.join(REQUIRED_COLUMNS)}"


@dataclass(frozen=True, kw_only=True)
class _Row:
    where: str
    """File and line, for errors."""
    track_id: str
    audio: str
    labels: tuple[str, ...]
    split: Split | None
    stem_name: str
    start_s: float
    artist: str | None
    title: str | None


class ManifestCorpus:
    """The tracks of a CSV file, in the order of their first rows."""

    def __init__(self, root: Path) -> None:
        """Read and check the whole list; no audio file is touched.

        Args:
            root: the CSV file.

        Raises:
            CorpusError: not a CSV file, a column is missing, no rows, or rows that contradict each
                other; names the file, the line and what to change.
        """
        self.csv = Path(root)
        self.root = self.csv.parent
        """Folder that relative paths start from."""
        by_track: dict[str, list[_Row]] = {}
        for row in _read_rows(self.csv):
            by_track.setdefault(row.track_id, []).append(row)
        self._tracks = [self._track(rows) for rows in by_track.values()]

    def tracks(self) -> Iterator[Track]:
        """List all tracks, in the order of their first rows."""
        yield from self._tracks

    def _track(self, rows: list[_Row]) -> Track:
        return Track(
            track_id=rows[0].track_id,
            stems=self._stems(rows),
            split=_agreed_split(rows),
            artist=next((row.artist for row in rows if row.artist), None),
            title=next((row.title for row in rows if row.title), None),
        )

    def _stems(self, rows: list[_Row]) -> tuple[Stem, ...]:
        by_name: dict[str, list[_Row]] = {}
        for row, name in zip(rows, _stem_names(rows), strict=True):
            by_name.setdefault(name, []).append(row)
        return tuple(
            Stem(
                stem_id=f"{rows[0].track_id}/{name}",
                files=tuple(find_file(self.root / row.audio) for row in parts),
                labels=_common_labels(parts),
                start_s=_agreed_start(parts),
            )
            for name, parts in by_name.items()
        )


def _read_rows(path: Path) -> list[_Row]:
    if path.is_dir():
        raise CorpusError(f"{path} is a folder; {_EXPECTED} (for a folder of tracks use 'folder')")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _require_columns(path, reader.fieldnames)
            rows = [_row(f"{path} line {reader.line_num}", cells) for cells in reader]
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}); {_EXPECTED}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path} is not a CSV file in UTF-8 ({error}); {_EXPECTED}") from None
    if not rows:
        raise CorpusError(f"{path} lists no audio; add one line per audio file below the first")
    return rows


def _require_columns(path: Path, found: object) -> None:
    columns = list(found) if isinstance(found, list) else []
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if missing:
        shown = ",".join(str(name)[:40] for name in columns[:8]) or "nothing"
        raise CorpusError(
            f"{path} has no column {' and no column '.join(missing)} (its first line is: {shown}); "
            f"{_EXPECTED}, separated by commas"
        )


def _row(where: str, cells: dict[str, str | None]) -> _Row:
    if None in cells:
        raise CorpusError(f"{where} has more cells than the first line; quote cells with commas")
    cell = {
        name: unicodedata.normalize("NFC", (value or "").strip()) for name, value in cells.items()
    }
    for name in ("track_id", "audio"):
        if not cell[name]:
            raise CorpusError(f"{where} has no {name}; fill it in or delete the line")
    return _Row(
        where=where,
        track_id=cell["track_id"],
        audio=cell["audio"],
        labels=tuple(label for part in cell["labels"].split(">") if (label := part.strip())),
        split=_split(where, cell.get("split", "")),
        stem_name=cell.get("stem_id", ""),
        start_s=_start(where, cell.get("start_s", "")),
        artist=cell.get("artist") or None,
        title=cell.get("title") or None,
    )


def _split(where: str, text: str) -> Split | None:
    if text and text not in SPLITS:
        raise CorpusError(f"{where} has split {text!r}; expected train, valid, test or nothing")
    return cast(Split, text) if text else None


def _start(where: str, text: str) -> float:
    try:
        start_s = float(text or 0)
    except ValueError:
        start_s = math.nan
    if not 0 <= start_s <= MAX_START_S:
        raise CorpusError(f"{where} has start_s {text!r}; expected seconds, 0 to {MAX_START_S:.0f}")
    return start_s


def _stem_names(rows: list[_Row]) -> list[str]:
    """Name the stem of each row: its ``stem_id``, else its file's name, else its path."""
    _require_distinct_audio(rows)
    names = [row.stem_name or Path(row.audio).stem for row in rows]
    taken = Counter(names)
    return [
        row.audio if not row.stem_name and taken[name] > 1 else name
        for row, name in zip(rows, names, strict=True)
    ]


def _require_distinct_audio(rows: list[_Row]) -> None:
    seen: dict[str, _Row] = {}
    for row in rows:
        first = seen.setdefault(row.audio, row)
        if first is not row:
            line = first.where.rsplit(" ", 1)[1]
            raise CorpusError(
                f"{row.where} lists {row.audio} again for track {row.track_id!r} (first in line "
                f"{line}); delete one of the lines"
            )


def _common_labels(rows: list[_Row]) -> tuple[str, ...]:
    """Keep what a stem's files agree on, coarse to fine; unlabelled files do not count."""
    labels = [row.labels for row in rows if row.labels]
    shared = []
    for level in zip(*labels, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return tuple(shared)


def _agreed_split(rows: list[_Row]) -> Split | None:
    first = next((row for row in rows if row.split), rows[0])
    for row in rows:
        if row.split and row.split != first.split:
            raise CorpusError(
                f"{row.where} puts track {row.track_id!r} into split {row.split!r}, an earlier "
                f"line into {first.split!r}; a track belongs to one split"
            )
    return first.split


def _agreed_start(rows: list[_Row]) -> float:
    for row in rows:
        if row.start_s != rows[0].start_s:
            raise CorpusError(
                f"{row.where} starts at {row.start_s} s, another file of the same stem at "
                f"{rows[0].start_s} s; give all files of a stem the same start_s"
            )
    return rows[0].start_s
