"""What a query finds, as people and programs get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ml.retrieval.places import Place
from ml.retrieval.search import Hit


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
    """Where in the mix the chunk begins with which that chunk of the stem goes best (see
    ``ml.retrieval.places``): play both from these two places on; None without a mix."""
    duration_s: float
    """Length of the stem."""
    audio: str
    """Path of its audio; several files are separated by line breaks."""


def candidates_of(hits: Sequence[Hit], places: Mapping[tuple[str, str], Place]) -> list[Candidate]:
    """Hits, best first, with the places of those stems whose chunks are known, by ``owner_of``."""
    columns = ("key", "stem_id", "track_id", "corpus", "label", "category", "duration_s", "audio")
    found = []
    for rank, hit in enumerate(hits, start=1):
        place = places.get(owner_of(hit))
        found.append(
            Candidate(
                rank=rank,
                score=hit.score,
                best_start_s=place and place.start_s,
                mix_start_s=place and place.mix_start_s,
                **{name: hit.row[name] for name in columns},
            )
        )
    return found


def owner_of(hit: Hit) -> tuple[str, str]:
    """(corpus, stem_id) of what was found."""
    return hit.row["corpus"], hit.row["stem_id"]
