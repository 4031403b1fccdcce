"""Where to play a stem from: the second of it that is played with a second of the mix.

Each chunk of the mix asks for a stem of its own, so chunks of a stem can be compared with chunks of
the mix one by one. The pair with the highest cosine is not the one to play: some chunks are near to
everything. What counts is how far a pair's cosine lies above what its two chunks have on average
(the table of cosines, centred by rows and columns). Where stem and mix are of one song, that picks
two chunks that begin at the same second for 25 % of the queries of the demo's held-out songs (29 %
of demo-swapped's), the highest cosine for 19 % (18 %), chance for 13 %. Where they are of different
songs, which is what people mostly look for, there is no right answer, only a good one.

A chunk that fits may hold a quarter of a second of sound and then a gap. People are therefore led
to the best chunk that mostly sounds, from its first sound on; the audio itself says which, in a few
short pieces a stem. What cannot be sought in (a container) or is gone is played from the best
chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ml.artifacts import ArtifactError
from ml.audio.activity import active_intervals, active_seconds
from ml.audio.files import CONTAINER_SUFFIXES, AudioError
from ml.retrieval.embeddings.source import ACTIVITY
from ml.retrieval.queries.mix import ChunkVectors
from ml.retrieval.queries.stem_files import StemFiles, stem_window
from ml.retrieval.tables.search import Row, StemChunks

_DIGITS = 4
"""Cosines that differ by less are equal: then the higher plain cosine, then the earlier chunk."""
_MOSTLY = 0.5
"""A chunk mostly sounds when at least this share of it does."""
_MOST_READ = 8
"""Chunks of a stem that are read at most; where none mostly sounds, the one that sounds most."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where to play a stem from."""

    start_s: float
    """Where the chunk of the stem begins, or the stem in it."""
    mix_start_s: float | None
    """What of the mix is played with it; None without a mix."""


def places_with_mix(stem: StemChunks, mix: ChunkVectors) -> list[Place]:
    """List the chunks of a stem, each with the chunk of the mix it goes best with; best first.

    Pairs of chunks are ordered by how far they exceed their averages.
    """
    norms = np.linalg.norm(mix.vectors, axis=1, keepdims=True)
    queries = mix.vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    cosines = queries.astype(np.float64) @ stem.vectors.T  # (mix chunk, stem chunk)
    excess = cosines - cosines.mean(0) - cosines.mean(1, keepdims=True) + cosines.mean()
    rows, columns = (axis.ravel() for axis in np.indices(cosines.shape))
    order = np.lexsort((rows, columns, -_rounded(cosines), -_rounded(excess)))
    first = np.sort(np.unique(columns[order], return_index=True)[1])  # each stem chunk once
    return [
        Place(start_s=float(stem.start_s[column]), mix_start_s=float(mix.start_s[row]))
        for row, column in zip(rows[order[first]], columns[order[first]], strict=True)
    ]


def places_alone(stem: StemChunks, vector: np.ndarray) -> list[Place]:
    """List the chunks of a stem by their cosine with a vector (dim,) of unit norm, best first."""
    order = np.argsort(-_rounded(stem.vectors @ vector), kind="stable")
    return [Place(start_s=float(stem.start_s[i]), mix_start_s=None) for i in order]


def sounding_place(
    places: Sequence[Place], row: Row, length_s: float, files: StemFiles | None
) -> Place:
    """Choose the best place where a stem mostly sounds, from its first sound there on.

    Args:
        places: one or more, best first.
        row: of the stem.
        length_s: how much of it is looked at from each place on.
        files: finds the stem's audio; None: the best place is taken as it is.
    """
    try:
        heard = [] if files is None else _listen(places, row, length_s, files)
    except (ArtifactError, AudioError):  # what cannot be read can be found all the same
        heard = []
    return max(heard, key=lambda pair: pair[0])[1] if heard else places[0]


def _listen(
    places: Sequence[Place], row: Row, length_s: float, files: StemFiles
) -> list[tuple[float, Place]]:
    """Read places up to the first that mostly sounds: the share that sounds, and its onset."""
    stem = files.stem(row)
    if any(path.suffix.lower() in CONTAINER_SUFFIXES for path in stem.files):
        return []
    heard: list[tuple[float, Place]] = []
    for place in places[:_MOST_READ]:
        audio, rate_hz = stem_window(stem, place.start_s, length_s)
        intervals = active_intervals(audio.mean(axis=1), rate_hz, ACTIVITY)
        share = active_seconds(intervals, 0.0, length_s) / length_s
        onset_s = intervals[0][0] if intervals else 0.0
        heard.append((min(share, _MOSTLY), _later(place, onset_s)))
        if share >= _MOSTLY:
            break
    return heard


def _later(place: Place, by_s: float) -> Place:
    """Begin later, stem and mix alike."""
    mix_start_s = place.mix_start_s
    return Place(
        start_s=round(place.start_s + by_s, 6),
        mix_start_s=None if mix_start_s is None else round(mix_start_s + by_s, 6),
    )


def _rounded(cosines: np.ndarray) -> np.ndarray:
    return np.round(cosines.ravel(), _DIGITS)
