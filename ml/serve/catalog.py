"""What the table holds, for choosing: labels, corpora, tracks and their stems."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from ml.retrieval.tables.publish import BPM, MUSICAL_KEY

if TYPE_CHECKING:
    from ml.retrieval.tables.search import StemTables

_COLUMNS = ("key", "stem_id", "track_id", "corpus", "label", "category", "duration_s", "audio")


@dataclass(frozen=True, kw_only=True)
class TrackStems:
    """A track and its stems that the table holds."""

    corpus: str
    track_id: str
    split: str | None
    rows: tuple[Mapping[str, Any], ...]
    """``_COLUMNS`` of each stem, in the order of the keys."""

    @property
    def duration_s(self) -> float:
        """Of its longest stem."""
        return max(row["duration_s"] for row in self.rows)


class Catalog:
    """One version of a table, to look things up in; any thread may ask."""

    def __init__(self, tables: StemTables):
        self.tables = tables
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.tables)

    @property
    def columns(self) -> tuple[str, ...]:
        """What a condition may name; where the files lie is nobody's business."""
        music = [name for name in (BPM, MUSICAL_KEY) if name in self.tables.columns]
        return (*(name for name in _COLUMNS if name != "audio"), "split", "labels", *music)

    def row(self, key: str) -> Mapping[str, Any]:
        """Look a stem up by its key.

        Raises:
            HTTPException: the table has no such stem.
        """
        row = self.tables.row(key)
        if row is None:
            sentence = f"no stem {key[:200]!r} is in the table; take a key from /api/search"
            raise HTTPException(404, sentence)
        return row

    @property
    def labels(self) -> Mapping[str, int]:
        """Finest label → stems, the most frequent first."""
        counts = self.tables.label_counts().items()
        return dict(sorted(counts, key=lambda item: -item[1]))

    @property
    def corpora(self) -> Mapping[str, tuple[int, int]]:
        """Corpus → number of stems and of tracks."""
        tracks = Counter(corpus for corpus, _ in self._tracks)
        return {name: (stems, tracks[name]) for name, stems in self.tables.corpora().items()}

    @property
    def categories(self) -> Sequence[str]:
        """Coarsest labels, sorted."""
        with self._lock:
            return self._scanned[1]

    def find_tracks(self, corpus: str | None, contains: str | None) -> Sequence[tuple[str, str]]:
        """List (corpus, track_id) of a corpus (None: of all) whose id has a text, in any case."""
        text = (contains or "").lower()
        return [
            (name, track_id)
            for name, track_id in self._tracks
            if corpus in (None, name) and text in track_id.lower()
        ]

    def tracks(self, wanted: Sequence[tuple[str, str]]) -> list[TrackStems]:
        """Read tracks with their stems, in the order wanted.

        Args:
            wanted: (corpus, track_id) of each; those that the table lacks are left out.
        """
        from ml.retrieval.tables.database import open_table, read, sql_text
        from ml.retrieval.tables.publish import STEM_TABLE

        if not wanted:
            return []
        corpora, ids = (
            ", ".join(sorted({sql_text(text) for text in column}))
            for column in zip(*wanted, strict=True)
        )
        rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        query = open_table(self.tables.uri, STEM_TABLE).search()
        query = query.where(f"corpus IN ({corpora}) AND track_id IN ({ids})")
        stems = read(query.select([*_COLUMNS, "split"]).limit(None)).sort_by("key")
        for row in stems.to_pylist():
            rows.setdefault((row["corpus"], row["track_id"]), []).append(row)
        return [
            TrackStems(
                corpus=corpus,
                track_id=track_id,
                split=rows[corpus, track_id][0]["split"],
                rows=tuple(rows[corpus, track_id]),
            )
            for corpus, track_id in wanted
            if (corpus, track_id) in rows
        ]

    def track(self, corpus: str, track_id: str) -> TrackStems:
        """Look a track up by corpus and id.

        Raises:
            HTTPException: the table has no stem of it.
        """
        tracks = self.tracks([(corpus, track_id)])
        if not tracks:
            raise HTTPException(
                404,
                f"no track {track_id[:200]!r} of corpus {corpus!r} is in the table; take one from "
                f"/api/tracks",
            )
        return tracks[0]

    @property
    def _tracks(self) -> Sequence[tuple[str, str]]:
        with self._lock:
            return self._scanned[0]

    @cached_property
    def _scanned(self) -> tuple[Sequence[tuple[str, str]], Sequence[str]]:
        """(corpus, track_id) of all tracks, and all categories, sorted."""
        from ml.retrieval.tables.database import open_table, read
        from ml.retrieval.tables.publish import STEM_TABLE

        query = open_table(self.tables.uri, STEM_TABLE).search()
        stems = read(query.select(["corpus", "track_id", "category"]).limit(None))
        tracks = stems.group_by(["corpus", "track_id"]).aggregate([]).to_pylist()
        categories = stems["category"].unique().to_pylist()
        pairs = sorted((track["corpus"], track["track_id"]) for track in tracks)
        return pairs, sorted(text for text in categories if text is not None)
