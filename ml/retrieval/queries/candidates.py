"""What a query finds, as people and programs get it: stems, and where to play each from.

A *place* is the second of the stem that is played together with a second of the mix. Each chunk of
the mix asks for a stem of its own, so chunks of a stem can be compared with chunks of the mix one
by one. The pair with the highest cosine is not the one to play: some chunks are near to everything.
What counts is how far a pair's cosine lies above what its two chunks have on average (the table of
cosines, centred by rows and columns). Where stem and mix are of one song, that picks two chunks
that begin at the same second for 25 % of the queries of the demo's held-out songs (29 % of
demo-swapped's), the highest cosine for 19 % (18 %), chance for 13 %. Where they are of different
songs, which is what people mostly look for, there is no right answer, only a good one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml.retrieval.queries.mix import ChunkVectors
from ml.retrieval.tables.search import Hit, StemChunks

_DIGITS = 4
"""Cosines that differ by less are equal: then the higher plain cosine, then the earlier chunk."""


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
    """Where in the stem the chunk begins that fits best; None when its chunks are not known."""
    mix_start_s: float | None
    """Where in the mix the chunk begins with which that chunk of the stem goes best: play both from
    these two places on; None without a mix."""
    duration_s: float
    """Length of the stem."""
    audio: str
    """Path of its audio; several files are separated by line breaks."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where to play a stem from."""

    start_s: float
    """Where the chunk of the stem begins."""
    mix_start_s: float | None
    """Where the chunk of the mix begins that goes with it; None without a mix."""


def candidates_of(hits: Sequence[Hit], places: Mapping[tuple[str, str], Place]) -> list[Candidate]:
    """Make candidates of hits, best first.

    Args:
        hits: what was found.
        places: by ``owner_of``, of those stems whose chunks are known.
    """
    columns = ("key", "stem_id", "track_id", "corpus", "label", "category", "duration_s", "audio")
    candidates = []
    for rank, hit in enumerate(hits, start=1):
        place = places.get(owner_of(hit))
        candidates.append(
            Candidate(
                rank=rank,
                score=hit.score,
                best_start_s=place and place.start_s,
                mix_start_s=place and place.mix_start_s,
                **{name: hit.row[name] for name in columns},
            )
        )
    return candidates


def owner_of(hit: Hit) -> tuple[str, str]:
    """Name a stem that was found: (corpus, stem_id)."""
    return hit.row["corpus"], hit.row["stem_id"]


def place_with_mix(stem: StemChunks, mix: ChunkVectors) -> Place:
    """Choose the pair of chunks that fit best, by how far they exceed their averages."""
    norms = np.linalg.norm(mix.vectors, axis=1, keepdims=True)
    queries = mix.vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    cosines = queries.astype(np.float64) @ stem.vectors.T  # (mix chunk, stem chunk)
    excess = cosines - cosines.mean(0) - cosines.mean(1, keepdims=True) + cosines.mean()
    rows, columns = np.indices(cosines.shape)
    order = (rows.ravel(), columns.ravel(), -_rounded(cosines), -_rounded(excess))
    best = int(np.lexsort(order)[0])
    row, column = divmod(best, cosines.shape[1])
    return Place(start_s=float(stem.start_s[column]), mix_start_s=float(mix.start_s[row]))


def place_alone(stem: StemChunks, vector: np.ndarray) -> Place:
    """Choose the chunk of highest cosine with a vector (dim,) of unit norm; the first of equals."""
    best = int(_rounded(stem.vectors @ vector).argmax())
    return Place(start_s=float(stem.start_s[best]), mix_start_s=None)


def _rounded(cosines: np.ndarray) -> np.ndarray:
    return np.round(cosines.ravel(), _DIGITS)
