"""Tempo, beats and key of the tracks of a corpus: ``music/<corpus>/tracks.parquet``.

The stems of a track start together and sound together, so tempo and key are the *track's*, heard
from the sum of its stems (the key from those that have pitch): a pad that changes once a bar says
little of its tempo, its song all. A stem has the tempo of its track, and its key if it has pitch:
drums have none, labelled instruments have, and of the rest it is heard.

A row is good for the content of its track's stems, whatever their files are called. It is written
with a hundred others as they come in, so a pass that was stopped goes on where it was.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml import kinds
from ml.artifacts import Artifact, DataLayout, find_current, fingerprint, finish, write_aside
from ml.audio.files import AudioError, mix_parts, read_stem
from ml.locks import lock
from ml.music.fit import Music
from ml.music.key import find_key, has_pitch
from ml.music.tempo import RATE_HZ, find_tempo
from ml.parquet import read_frame
from ml.processes import completed, process_pool
from ml.progress import progress
from ml.tracks import Stem, Track

TABLE_NAME = "tracks.parquet"
_RULES = 3
"""Raised when what is found changes: all tracks are then listened to anew."""
_ROWS_AT_ONCE = 100
_DRUMS, _UNSAID = "drums", (None, "other", "percussion")
"""The category of what has no key, even where a drum rings; those that do not say."""
_TRACKS_A_WORKER = 8
"""Fewer are not worth a process."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrackMusic:
    """What was heard in a track."""

    track_id: str
    content: str
    """Fingerprint of the stems' content, and of how they are listened to."""
    bpm: float | None
    """None: no steady tempo."""
    bpm_confidence: float | None
    beats_s: Sequence[float]
    """Increasing; empty without a steady tempo."""
    key: str | None
    """One of ``ml.music.key.KEYS``; None: no key, or none that is plain."""
    key_confidence: float | None
    pitched: Sequence[str]
    """Ids of the stems that have pitch."""

    def of_stem(self, stem_id: str) -> Music:
        """Give tempo and key of a stem; drums have no key."""
        key = self.key if stem_id in self.pitched else None
        return Music(bpm=self.bpm, beats_s=self.beats_s, key=key)


def build_track_music(
    name: str, layout: DataLayout, track_ids: Collection[str], *, workers: int = 1
) -> Artifact:
    """Listen to tracks of a corpus; those that were heard before are not heard again.

    A track whose files cannot be read is left out, with a warning.

    Args:
        name: the corpus; its ``corpus_tracks`` must have been built.
        layout: where everything lies.
        track_ids: which tracks; what is known of others stays.
        workers: processes.

    Raises:
        ArtifactError: the corpus has no ``corpus_tracks``.
        LockedError: another process listens to them.
    """
    from ml.corpora.table import read_corpus_tracks, tracks_of_table

    folder = layout.music(name)
    table = read_corpus_tracks(layout, name)
    tracks = {track.track_id: track for track in tracks_of_table(table)}
    contents = _contents(dict(table.select("stem_id", "content_hash").iter_rows()), tracks)
    with lock(folder / ".lock"):
        known = {
            row.track_id: row
            for row in read_track_music(layout, name).values()
            if contents.get(row.track_id) == row.content
        }
        new = [(tracks[i], contents[i]) for i in tracks if i in set(track_ids) - set(known)]
        label = f"tempo and key of {name}"
        heard = progress(_heard(new, workers), total=len(new), label=label) if new else iter(())
        while rows := list(itertools.islice(heard, _ROWS_AT_ONCE)):
            known |= {row.track_id: row for row in rows if row is not None}
            _write(folder / TABLE_NAME, known.values())
        identity = {"corpus": name, "tracks": fingerprint({i: known[i].content for i in known})}
        return find_current(folder, identity, kinds.TRACK_MUSIC) or finish(
            folder,
            identity,
            kinds.TRACK_MUSIC,
            summary={
                "tracks": len(known),
                "with_tempo": sum(row.bpm is not None for row in known.values()),
                "with_key": sum(row.key is not None for row in known.values()),
            },
        )


def read_track_music(layout: DataLayout, name: str) -> dict[str, TrackMusic]:
    """Read what was heard in the tracks of a corpus, by id; nothing where nobody listened."""
    path = layout.music(name) / TABLE_NAME
    if not path.is_file():
        return {}
    return {row["track_id"]: TrackMusic(**row) for row in read_frame(path).iter_rows(named=True)}


def _contents(hashes: Mapping[str, str | None], tracks: Mapping[str, Track]) -> dict[str, str]:
    return {
        track_id: fingerprint(
            [_RULES, [(stem.stem_id, hashes[stem.stem_id], stem.start_s) for stem in track.stems]]
        )
        for track_id, track in tracks.items()
    }


def _heard(jobs: Sequence[tuple[Track, str]], workers: int) -> Iterator[TrackMusic | None]:
    workers = min(workers, len(jobs) // _TRACKS_A_WORKER)
    if workers <= 1:
        yield from map(_hear, jobs)
        return
    with process_pool(workers) as pool:
        yield from completed(pool, _hear, jobs)


def _hear(job: tuple[Track, str]) -> TrackMusic | None:
    """Listen to a track; None where its files cannot be read."""
    track, content = job
    try:
        stems = [read_stem(stem, RATE_HZ) for stem in track.stems]
    except AudioError as error:
        _log.warning("tempo and key of %s are not known: %s", track.track_id, error)
        return None
    pitched = [i for i, stem in enumerate(track.stems) if _is_pitched(stem, stems[i])]
    tempo = find_tempo(mix_parts(stems))
    key = find_key(mix_parts([stems[place] for place in pitched]))
    return TrackMusic(
        track_id=track.track_id,
        content=content,
        bpm=tempo and round(tempo.bpm, 2),
        bpm_confidence=tempo and round(tempo.confidence, 3),
        beats_s=[] if tempo is None else np.round(tempo.beats_s, 3).tolist(),
        key=key and key.name,
        key_confidence=key and round(key.confidence, 3),
        pitched=[track.stems[place].stem_id for place in pitched],
    )


def _is_pitched(stem: Stem, waveform: np.ndarray) -> bool:
    if stem.category in _UNSAID:
        return has_pitch(waveform)
    return stem.category != _DRUMS


def _write(path: Path, rows: Collection[TrackMusic]) -> None:
    import polars as pl

    schema: dict[str, Any] = {
        **dict.fromkeys(("track_id", "content"), pl.String),
        **dict.fromkeys(("bpm", "bpm_confidence"), pl.Float64),
        "beats_s": pl.List(pl.Float64),
        "key": pl.String,
        "key_confidence": pl.Float64,
        "pitched": pl.List(pl.String),
    }
    table = pl.DataFrame([asdict(row) for row in rows], schema=schema, orient="row")
    with write_aside(path) as aside:
        table.write_parquet(aside)
