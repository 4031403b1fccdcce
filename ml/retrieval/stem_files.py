"""Which files a stem of the table is made of, as its corpus has them now."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST_NAME, DataLayout
from ml.corpora.corpus import Stem


class StemFiles:
    """Looks stems up in ``corpus_tracks``; any thread may ask.

    The table itself names files too, but knows nothing of a corpus that was moved since, of the
    streams of a container, or of stems that begin late.

    Args:
        layout: where ``corpus_tracks`` lie.
    """

    def __init__(self, layout: DataLayout):
        self._layout = layout
        self._lock = threading.Lock()
        self._read: dict[str, tuple[int, Mapping[str, Stem]]] = {}

    def stem(self, row: Mapping[str, Any]) -> Stem:
        """The stem of a row of the table; its files are not looked at.

        Raises:
            ArtifactError: ``corpus_tracks`` of its corpus is damaged.
        """
        known = self._corpus(row["corpus"])
        if row["stem_id"] in known:
            return known[row["stem_id"]]
        files = tuple(Path(line) for line in row["audio"].splitlines() if line)
        return Stem(stem_id=row["stem_id"], files=files)

    def _corpus(self, name: str) -> Mapping[str, Stem]:
        """Stems of a corpus by their ids; none when it has no ``corpus_tracks`` here."""
        from ml.corpora.table import read_corpus_tracks, tracks_of_table

        manifest = self._layout.tracks(name) / MANIFEST_NAME
        with self._lock:
            if not manifest.is_file():
                return {}
            written_ns = manifest.stat().st_mtime_ns
            if name not in self._read or self._read[name][0] != written_ns:
                tracks = tracks_of_table(read_corpus_tracks(self._layout, name))
                stems = {stem.stem_id: stem for track in tracks for stem in track.stems}
                self._read[name] = written_ns, stems
            return self._read[name][1]
