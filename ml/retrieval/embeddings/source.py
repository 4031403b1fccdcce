"""What is embedded: the stems of a corpus, their audio, and the chunks in which they sound.

The *source* is the tracks of the chosen splits; a decoded track holds every stem once, and the mix
that lacks it. That mix is the float64 total of the track minus the stem, rounded to float32: with
float32 stems the subtraction is exact to about 1e-16 of full scale, far below float32's own 6e-8,
and costs one total a track instead of one sum a stem. Nothing is clipped or rescaled.

A track may be one that a model has *seen* in training, under whatever name. A song may come back in
another corpus: MUSDB18 took 46 of its songs from MedleyDB, cut and mixed anew, so that neither ids
nor contents agree. The rule therefore has three parts, any of which makes a track a seen one: its
id in the same corpus, the content of one of its sounding stems, or its artist and title. It is
applied to queries; galleries keep all stems.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ml import kinds
from ml.artifacts import CONTENT_DIGITS, MANIFEST_NAME, DataLayout, read_manifest
from ml.audio.activity import MIN_ACTIVE_S, ActivityConfig, active_intervals, active_starts
from ml.audio.files import read_stem
from ml.retrieval.embeddings.files import StemRow
from ml.tracks import CorpusError, Split, Track, song_key

if TYPE_CHECKING:
    import polars as pl

ACTIVITY = ActivityConfig()
"""The rule of what sounds, for stems and mixes alike."""
_TRACKS_AHEAD = 2
"""Tracks that are decoded while the caller works on one."""

EVERY_SPLIT = "every"
Splits = Sequence[str] | Literal["every"] | None
"""Names of splits; ``EVERY_SPLIT``: all tracks, whatever their split or none."""
Chunk = tuple[float, np.ndarray]
"""Where a chunk begins in seconds, and its waveform: (samples,) float32."""

Name = tuple[str | None, str | None]
"""Artist and title as written."""


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
        """Cut a stem: (samples,) float32, shorter at the end of the track."""
        return self.stems[stem, start : start + samples]

    def mix_chunk(self, stem: int, start: int, samples: int) -> np.ndarray:
        """Cut the mix without a stem: (samples,) float32, shorter at the end of the track."""
        window = slice(start, start + samples)
        return (self.total[window] - self.stems[stem, window]).astype(np.float32)

    def stem_chunks(self, stem: int, chunk_s: float) -> Iterator[Chunk]:
        """Yield the sounding chunks of a stem."""
        for start, samples in self._starts(self.stem_intervals[stem], chunk_s):
            yield start / self.rate_hz, self.stem_chunk(stem, start, samples)

    def mix_chunks(self, stem: int, chunk_s: float) -> Iterator[Chunk]:
        """Yield the sounding chunks of the mix without a stem."""
        for start, samples in self._starts(self.mix_intervals[stem], chunk_s):
            yield start / self.rate_hz, self.mix_chunk(stem, start, samples)

    def _starts(
        self, intervals: Sequence[tuple[float, float]], chunk_s: float
    ) -> Iterator[tuple[int, int]]:
        size = round(chunk_s * self.rate_hz)
        for start in active_starts(intervals, self.stems.shape[1], size, self.rate_hz):
            yield start, size


def sounding_chunks(waveform: np.ndarray, rate_hz: int, chunk_s: float) -> list[Chunk]:
    """Cut a waveform, (samples,) float32, into its sounding chunks, as tracks are cut."""
    size = round(chunk_s * rate_hz)
    intervals = active_intervals(waveform, rate_hz, ACTIVITY)
    starts = active_starts(intervals, len(waveform), size, rate_hz)
    return [(start / rate_hz, waveform[start : start + size]) for start in starts]


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
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending: deque[Future[TrackAudio]] = deque()
        for track in tracks:
            pending.append(pool.submit(read_track, track, rate_hz))
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
        """Describe the stems, in the order of the tracks."""
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

    def songs(self) -> dict[str, str]:
        """Map tracks of one artist and title (renderings of a MIDI file) to the first of them.

        Tracks that are alone are left out.
        """
        named: dict[Name, list[str]] = {}
        for track in self.tracks:
            if track.title:
                named.setdefault((track.artist, track.title), []).append(track.track_id)
        return {each: same[0] for same in named.values() for each in same if len(same) > 1}


def open_source(name: str, layout: DataLayout, splits: Splits, **identity: Any) -> EmbeddingSource:
    """Choose the tracks of a corpus to embed.

    Args:
        name: the corpus.
        layout: where its ``corpus_tracks`` lies.
        splits: which tracks; None: ``test`` where the corpus has such tracks, else all. All three
            are all, also of a corpus that has none.
        identity: what else decides the embeddings, whatever the model.

    Raises:
        ArtifactError: ``corpus_tracks`` was not built.
        CorpusError: no usable track in these splits.
    """
    from ml.corpora.table import read_corpus_tracks, tracks_of_table

    manifest = read_manifest(layout.tracks(name), kinds.CORPUS_TRACKS)
    table = read_corpus_tracks(layout, name)
    tracks = [track for track in tracks_of_table(table) if track.stems]
    known = {track.split for track in tracks}
    chosen = ["test"] if not splits and "test" in known else splits or None
    if chosen == EVERY_SPLIT:
        chosen = None
    if chosen is not None and not set(get_args(Split)) <= set(chosen):
        tracks = [track for track in tracks if track.split in chosen]
    if not tracks:
        raise CorpusError(
            f"corpus {name} has no usable track in the splits {', '.join(chosen or ['(all)'])}; "
            f"it has: {', '.join(sorted(str(s) for s in known)) or 'no tracks'}"
        )
    identity |= {
        "corpus": name,
        "corpus_tracks": manifest["fingerprint"],
        "splits": chosen,
        "activity": ACTIVITY,
        "min_active_s": MIN_ACTIVE_S,
    }
    return EmbeddingSource(corpus=name, table=table, tracks=tracks, identity=identity)


def seen_tracks(
    table: pl.DataFrame,
    training_tracks: Sequence[Mapping[str, Any]],
    layout: DataLayout | None = None,
) -> set[str]:
    """Find the tracks of a corpus that a model was trained on: their ids.

    Args:
        table: ``corpus_tracks`` of the corpus.
        training_tracks: ``corpus``, ``track_id``, ``content_hash`` (of the track, or a list of
            those of its stems, at least ``CONTENT_DIGITS`` of each; may be missing) and, where
            known, ``artist`` and ``title`` of each training track.
        layout: a home whose ``corpus_tracks`` give artist and title where ``training_tracks``
            lack them; a training corpus that was never scanned there is matched by id and content.

    Raises:
        ArtifactError: a table of the home is damaged or has a newer format.
    """
    ids = {(track["corpus"], track["track_id"]) for track in training_tracks}
    hashes = {x[:CONTENT_DIGITS] for track in training_tracks for x in _hashes(track)}
    names = _song_keys(_names(training_tracks, layout))
    sounding = table.filter(table["active_s"] > 0)
    columns = ("corpus", "track_id", "content_hash", "artist", "title")
    return {
        track_id
        for corpus, track_id, content, artist, title in sounding.select(columns).iter_rows()
        if (corpus, track_id) in ids
        or content[:CONTENT_DIGITS] in hashes
        or song_key(artist, title) in names
    }


def seen_of_corpus(
    corpus: str, layout: DataLayout, training_tracks: Iterable[Sequence[Mapping[str, Any]]]
) -> set[str]:
    """Tracks of a corpus that any of several models was trained on.

    Args:
        corpus: its name; its ``corpus_tracks`` must have been built.
        layout: where they lie.
        training_tracks: of each model, as for ``seen_tracks``.

    Raises:
        ArtifactError: ``corpus_tracks`` was not built or cannot be read.
    """
    from ml.corpora.table import read_corpus_tracks

    table = read_corpus_tracks(layout, corpus)
    return seen_tracks(table, [t for tracks in training_tracks for t in tracks], layout)


def _song_keys(names: Iterable[Name]) -> set[str]:
    keys = (song_key(artist, title) for artist, title in set(names))
    return {key for key in keys if key is not None}


def _hashes(track: Mapping[str, Any]) -> list[str]:
    content = track.get("content_hash") or []
    return [content] if isinstance(content, str) else list(content)


def _names(
    training_tracks: Sequence[Mapping[str, Any]], layout: DataLayout | None
) -> Iterator[Name]:
    """Artist and title of each training track for which they are known."""
    nameless: dict[str, set[str]] = {}
    for track in training_tracks:
        if track.get("artist") and track.get("title"):
            yield track["artist"], track["title"]
        else:
            nameless.setdefault(track["corpus"], set()).add(track["track_id"])
    if layout is not None:
        for corpus, track_ids in nameless.items():
            yield from _scanned_names(layout, corpus, track_ids)


def _scanned_names(layout: DataLayout, corpus: str, track_ids: set[str]) -> Iterator[Name]:
    from ml.corpora.table import read_corpus_tracks

    if (layout.tracks(corpus) / MANIFEST_NAME).is_file():
        columns = read_corpus_tracks(layout, corpus).select("track_id", "artist", "title")
        for track_id, artist, title in columns.iter_rows():
            if track_id in track_ids:
                yield artist, title
