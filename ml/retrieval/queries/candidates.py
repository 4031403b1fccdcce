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
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ml.retrieval.queries.places import Place
from ml.retrieval.queries.stem_files import StemFiles
from ml.retrieval.tables.publish import BPM, MUSICAL_KEY
from ml.retrieval.tables.search import Hit

_NEARLY_EQUAL = 0.98
"""Cosine from which on two vectors are."""


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
