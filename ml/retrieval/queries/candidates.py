"""What a query finds, as people and programs get it: stems, their variants, where to play each.

*Variants* are recordings of the same thing: the demo's songs come plain, with a colour and with
another's; albums are remastered; files are copied from corpus to corpus. One of them, the best, is
a candidate, and the others are named with it. Two stems are variants when

- their files are the same, byte by byte (``content_hash``), or
- their songs have the same title and artist (or id, where the artist is not known), and they the
  same name and label in it, or
- their songs are so the same, or without a title have the same id, they have the same label, and
  their vectors are nearly equal.

Near vectors alone say little: stems of different songs come as near.

The *place* to play a stem from is the second of it that is played with a second of the mix. Each
chunk of the mix asks for a stem of its own, so chunks of a stem can be compared with chunks of the
mix one by one. The pair with the highest cosine is not the one to play: some chunks are near to
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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ml.artifacts import ArtifactError
from ml.audio.activity import active_intervals, active_seconds
from ml.audio.files import CONTAINER_SUFFIXES, AudioError
from ml.retrieval.embeddings.source import ACTIVITY
from ml.retrieval.queries.mix import ChunkVectors
from ml.retrieval.queries.stem_files import StemFiles, stem_window
from ml.retrieval.tables.publish import BPM, MUSICAL_KEY
from ml.retrieval.tables.search import Hit, Row, StemChunks

_NEARLY_EQUAL = 0.98
"""Cosine from which on two vectors are."""
_DIGITS = 4
"""Cosines that differ by less are equal: then the higher plain cosine, then the earlier chunk."""
_MOSTLY = 0.5
"""A chunk mostly sounds when at least this share of it does."""
_MOST_READ = 8
"""Chunks of a stem that are read at most; where none mostly sounds, the one that sounds most."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A stem that could fit."""

    rank: int
    """1 = first."""
    score: float
    """Cosine, -1…1, of the stem with what was asked for: with the prediction (``query``), with the
    example (``query_by_stem``), or of its label with the text (``query_by_text``)."""
    key: str
    """What names the stem in all corpora: ``<corpus>/<stem_id>``."""
    stem_id: str
    track_id: str
    corpus: str
    label: str
    """What it plays; ``"music"`` when its corpus does not say."""
    category: str | None
    """The coarse word for it; None when its corpus does not say."""
    best_start_s: float | None
    """Where to play the stem from: where it begins to sound in the chunk that fits best, of those
    that mostly sound; None when its chunks are not known."""
    mix_start_s: float | None
    """Where in the mix that goes best: play both from these two places on; None without a mix."""
    duration_s: float
    """Length of the stem."""
    audio: str
    """Path of its audio; several files are separated by line breaks."""
    bpm: float | None = None
    """Tempo of its track; None: not steady, or not listened for."""
    musical_key: str | None = None
    """Key of its track, such as ``A minor``; None: it has none (drums), or none that is plain."""
    variants: list[str] = field(default_factory=list)
    """Keys of the recordings that were folded into this one, the best first."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A stem that was found, with its variants."""

    hit: Hit
    variants: list[str] = field(default_factory=list)
    """Their keys, best first."""


def candidates_of(
    found: Sequence[Found], places: Mapping[tuple[str, str], Place]
) -> list[Candidate]:
    """Make candidates of what was found, best first.

    Args:
        found: with their variants.
        places: by ``owner_of``, of those stems whose chunks are known.
    """
    columns = ("key", "stem_id", "track_id", "corpus", "label", "category", "duration_s", "audio")
    candidates = []
    for rank, one in enumerate(found, start=1):
        place = places.get(owner_of(one.hit))
        candidates.append(
            Candidate(
                rank=rank,
                score=one.hit.score,
                best_start_s=place and place.start_s,
                mix_start_s=place and place.mix_start_s,
                variants=one.variants,
                **{name: one.hit.row[name] for name in columns},
                bpm=one.hit.row.get(BPM),
                musical_key=one.hit.row.get(MUSICAL_KEY),
            )
        )
    return candidates


def owner_of(hit: Hit) -> tuple[str, str]:
    """Name a stem that was found: (corpus, stem_id)."""
    return hit.row["corpus"], hit.row["stem_id"]


def fold_variants(hits: Sequence[Hit], vectors: np.ndarray, files: StemFiles) -> list[Found]:
    """Put each variant to the best of its kind.

    Args:
        hits: best first.
        vectors: (hit, dim) unit norm.
        files: knows titles and contents.

    Raises:
        ArtifactError: ``corpus_tracks`` of a corpus is damaged.
    """
    found: list[Found] = []
    first: dict[tuple[str, ...], int] = {}  # what makes variants → the best that has it
    alike: dict[tuple[str, ...], list[tuple[int, np.ndarray]]] = {}  # of one song and label
    for hit, vector in zip(hits, vectors, strict=True):
        record, label = files.record(hit.row), hit.row["label"]
        name = hit.row["stem_id"].removeprefix(hit.row["track_id"])
        same = [("content", record.content_hash)] if record.content_hash else []
        same += [("stem", record.song, name, label)] if record.song else []
        song = (record.song or hit.row["track_id"], label)
        near = [i for i, other in alike.get(song, ()) if vector @ other >= _NEARLY_EQUAL]
        own = min([first[key] for key in same if key in first] + near, default=len(found))
        if own == len(found):
            found.append(Found(hit=hit))
        else:
            found[own].variants.append(hit.row["key"])
        for key in same:
            first.setdefault(key, own)
        alike.setdefault(song, []).append((own, vector))
    return found


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
