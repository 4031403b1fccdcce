"""Decoded tracks: every stem once, the mix that lacks it, and the chunks in which either sounds.

The mix of a query is the float64 total of the track minus the stem, rounded to float32: with
float32 stems the subtraction is exact to about 1e-16 of full scale, far below float32's own 6e-8,
and costs one total a track instead of one sum a stem. Nothing is clipped or rescaled.

[embedding_source] Which stems of a corpus are embedded, and which of its tracks a model has seen
in training.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ml import kinds
from ml.artifacts import DataLayout, read_manifest
from ml.audio.activity import ActivityConfig, active_intervals
from ml.audio.chunks import MIN_ACTIVE_S
from ml.audio.files import read_stem
from ml.retrieval.embeddings.files import StemRow
from ml.tracks import CorpusError, Track

if TYPE_CHECKING:
    import polars as pl


ACTIVITY = ActivityConfig()


_TRACKS_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class TrackAudio:
    """The stems of a track in memory, as long as the longest."""

    track: Track
    """Whose audio it is."""
    rate_hz: int
    """Sample rate of all stems."""
    stems: np.ndarray
    """(stem, samples) float32."""
    total: np.ndarray
    """(samples,) float64: the sum of all stems."""
    stem_intervals: Sequence[Sequence[tuple[float, float]]]
    """Per stem: when it sounds, in seconds."""
    mix_intervals: Sequence[Sequence[tuple[float, float]]]
    """Per stem: when the mix without it sounds, in seconds."""

    def stem_chunk(self, stem: int, start: int, samples: int) -> np.ndarray:
        """(samples,) float32 of a stem; shorter at the end of the track."""
        return self.stems[stem, start : start + samples]

    def mix_chunk(self, stem: int, start: int, samples: int) -> np.ndarray:
        """(samples,) float32 of the mix without a stem; shorter at the end of the track."""
        window = slice(start, start + samples)
        return (self.total[window] - self.stems[stem, window]).astype(np.float32)


def read_track(track: Track, rate_hz: int) -> TrackAudio:
    """Decode all stems of a track.

    Raises:
        AudioError: a file has become missing or unreadable since ``corpus_tracks`` was made.
    """
    waveforms = [read_stem(stem, rate_hz=rate_hz) for stem in track.stems]
    samples = max((len(waveform) for waveform in waveforms), default=0)
    stems = np.zeros((len(waveforms), samples), dtype=np.float32)
    for row, waveform in zip(stems, waveforms, strict=True):
        row[: len(waveform)] = waveform
    total = stems.sum(axis=0, dtype=np.float64)
    mixes = ((total - stem).astype(np.float32) for stem in stems)
    return TrackAudio(
        track=track,
        rate_hz=rate_hz,
        stems=stems,
        total=total,
        stem_intervals=[active_intervals(stem, rate_hz, ACTIVITY) for stem in stems],
        mix_intervals=[active_intervals(mix, rate_hz, ACTIVITY) for mix in mixes],
    )


def read_tracks(tracks: Iterable[Track], rate_hz: int) -> Iterator[TrackAudio]:
    """Decode tracks in order, the next ones in a thread while the caller works on one."""
    yield from _ahead(lambda track: read_track(track, rate_hz), tracks)


def _ahead(function: Callable[[Track], TrackAudio], items: Iterable[Track]) -> Iterator[TrackAudio]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending: deque[Future[TrackAudio]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > _TRACKS_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@dataclass(frozen=True, kw_only=True)
class EmbeddingSource:
    """The part of a corpus to embed."""

    corpus: str
    """Its name."""
    table: pl.DataFrame
    """All of ``corpus_tracks``."""
    tracks: Sequence[Track]
    """The tracks of the chosen splits, with their usable stems."""
    identity: Mapping[str, Any]
    """What decides these, and the rules of silence."""

    def rows(self) -> list[StemRow]:
        """One per stem, in the order of the tracks."""
        length = dict(zip(self.table["stem_id"], self.table["duration_s"], strict=True))
        return [
            StemRow(
                stem_id=stem.stem_id,
                track_id=track.track_id,
                corpus=self.corpus,
                split=track.split,
                label=stem.label,
                category=stem.category,
                labels=stem.labels,
                duration_s=length[stem.stem_id],
                audio="\n".join(path.as_posix() for path in stem.files),
            )
            for track in self.tracks
            for stem in track.stems
        ]


def open_source(
    name: str, layout: DataLayout, splits: Sequence[str] | None, **identity: Any
) -> EmbeddingSource:
    """The tracks of a corpus to embed.

    Args:
        name: the corpus.
        layout: where its ``corpus_tracks`` lies.
        splits: which tracks; default: ``test`` where the corpus has such tracks, else all.
        identity: what else decides the embeddings, whatever the model.

    Raises:
        ArtifactError: ``corpus_tracks`` was not built.
        CorpusError: no usable track in these splits.
    """
    from ml.corpora.table import read_corpus_tracks, tracks_of_table

    manifest = read_manifest(layout.tracks(name), kinds.CORPUS_TRACKS)
    table = read_corpus_tracks(layout, name)
    tracks = [track for track in tracks_of_table(table) if track.stems]
    found = {track.split for track in tracks}
    chosen = splits or (["test"] if "test" in found else None)
    if chosen is not None:
        tracks = [track for track in tracks if track.split in chosen]
    if not tracks:
        raise CorpusError(
            f"corpus {name} has no usable track in the splits {', '.join(chosen or ['(all)'])}; "
            f"it has: {', '.join(sorted(str(s) for s in found)) or 'no tracks'}"
        )
    identity |= {
        "corpus": name,
        "corpus_tracks": manifest["fingerprint"],
        "splits": chosen,
        "activity": ACTIVITY,
        "min_active_s": MIN_ACTIVE_S,
    }
    return EmbeddingSource(corpus=name, table=table, tracks=tracks, identity=identity)
