"""What a stem of the table is made of, as its corpus has it now: files, pieces of them, music."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml.artifacts import MANIFEST_NAME, DataLayout
from ml.audio.files import fit_channels, read_window, resample
from ml.music.fit import Music
from ml.music.tracks import TABLE_NAME, TrackMusic, read_track_music
from ml.tracks import Stem, song_key


@dataclass(frozen=True, kw_only=True)
class StemRecord:
    """What a corpus knows of a stem."""

    stem: Stem
    song: str | None = None
    """Equal for songs of one title and artist, or of one title and id where the artist is not
    known; None without a title."""
    content_hash: str | None = None
    """Of its files."""


class StemFiles:
    """Looks stems up in ``corpus_tracks`` and in what was heard there; any thread may ask.

    The table itself names files too, but knows nothing of a corpus that was moved since, of the
    streams of a container, of stems that begin late, or of titles.

    Args:
        layout: where ``corpus_tracks`` lie.
    """

    def __init__(self, layout: DataLayout):
        self._layout = layout
        self._lock = threading.Lock()
        self._read: dict[str, tuple[int, Mapping[str, StemRecord]]] = {}
        self._heard: dict[str, tuple[int, Mapping[str, TrackMusic]]] = {}

    def stem(self, row: Mapping[str, Any]) -> Stem:
        """Find the stem of a row of the table; its files are not looked at.

        Raises:
            ArtifactError: ``corpus_tracks`` of its corpus is damaged.
        """
        return self.record(row).stem

    def record(self, row: Mapping[str, Any]) -> StemRecord:
        """Find what the corpus of a row of the table knows of its stem.

        Raises:
            ArtifactError: as ``stem``.
        """
        known = self._corpus(row["corpus"])
        if row["stem_id"] in known:
            return known[row["stem_id"]]
        files = tuple(Path(line) for line in row["audio"].splitlines() if line)
        return StemRecord(stem=Stem(stem_id=row["stem_id"], files=files))

    def music(self, row: Mapping[str, Any]) -> Music:
        """Give tempo, beats and key of the stem of a row; none where nobody listened."""
        name = row["corpus"]
        table = self._layout.music(name) / TABLE_NAME
        with self._lock:
            written_ns = table.stat().st_mtime_ns if table.is_file() else 0
            if name not in self._heard or self._heard[name][0] != written_ns:
                self._heard[name] = written_ns, read_track_music(self._layout, name)
            heard = self._heard[name][1].get(row["track_id"])
        return Music() if heard is None else heard.of_stem(row["stem_id"])

    def _corpus(self, name: str) -> Mapping[str, StemRecord]:
        """Read the stems of a corpus by their ids; none when it has no ``corpus_tracks`` here."""
        manifest = self._layout.tracks(name) / MANIFEST_NAME
        with self._lock:
            if not manifest.is_file():
                return {}
            written_ns = manifest.stat().st_mtime_ns
            if name not in self._read or self._read[name][0] != written_ns:
                self._read[name] = written_ns, _records(self._layout, name)
            return self._read[name][1]


def _records(layout: DataLayout, name: str) -> dict[str, StemRecord]:
    from ml.corpora.table import read_corpus_tracks, tracks_of_table

    table = read_corpus_tracks(layout, name)
    hashes = dict(table.select("stem_id", "content_hash").iter_rows())
    return {
        stem.stem_id: StemRecord(
            stem=stem,
            song=song_key(track.artist or track.track_id, track.title),
            content_hash=hashes[stem.stem_id],
        )
        for track in tracks_of_table(table)
        for stem in track.stems
    }


def stem_window(stem: Stem, start_s: float, duration_s: float) -> tuple[np.ndarray, int]:
    """Read a piece of a stem, with its channels: the sum of its files.

    Args:
        stem: the stem; before its ``start_s`` there is silence.
        start_s: where the piece begins.
        duration_s: how long it is.

    Returns:
        (samples, channel) float32 and the rate in Hz: of files that differ, the most channels and
        the highest rate.

    Raises:
        AudioError: a file is gone or cannot be decoded.
    """
    begin_s = start_s - stem.start_s
    parts = [read_window(path, begin_s, duration_s, stream=stem.stream) for path in stem.files]
    rate_hz = max(rate for _, rate in parts)
    channels = max(audio.shape[1] for audio, _ in parts)
    total = np.zeros((round(duration_s * rate_hz), channels), dtype=np.float32)
    for audio, from_hz in parts:
        columns = [resample(np.ascontiguousarray(c), from_hz, rate_hz) for c in audio.T]
        part = fit_channels(np.stack(columns, axis=1), channels)[: len(total)]
        total[: len(part)] += part
    return total, rate_hz
