"""What the nearest stem of each query was: right stem, track, instrument, category (Fig. 2).

Pure functions of the answers in ``queries.parquet`` and the stems of the gallery. Queries for
unlabelled stems have no right instrument and are of no kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.artifacts import ArtifactError
from ml.retrieval.instrument_files import SHARES

_BLOCK_VALUES = 4_000_000
_UNLABELLED = -1


@dataclass(frozen=True, kw_only=True)
class Stems:
    """What is known of the stems of a gallery, as small integers."""

    place: Mapping[str, int]
    """Stem id → index."""
    tracks: np.ndarray
    """(stem,) codes."""
    instruments: np.ndarray
    """(stem,) codes of the finest label; -1: unlabelled."""
    categories: np.ndarray
    """(stem,) codes of the coarsest label; -1: unlabelled."""
    rows: Sequence[Mapping[str, Any]]
    """(stem,) ``stem_id``, ``track_id``, ``label``, ``category``, ``labels``."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The queries of one model under one conditioning."""

    targets: np.ndarray
    """(query,) index of the stem looked for."""
    nearest: np.ndarray
    """(query,) index of the stem that came first."""
    ranks: np.ndarray
    """(query,) 1…gallery size."""
    asked: tuple[str, ...]
    """(query,) the texts conditioned with."""


def gallery_stems(rows: Sequence[Mapping[str, Any]]) -> Stems:
    """Stems from rows of ``gallery.parquet``."""
    labelled = [row if row["labels"] else {} for row in rows]
    return Stems(
        place={row["stem_id"]: i for i, row in enumerate(rows)},
        tracks=_codes([row["track_id"] for row in rows]),
        instruments=_codes([row.get("label") for row in labelled]),
        categories=_codes([row.get("category") for row in labelled]),
        rows=rows,
    )


def answered(stems: Stems, queries: Sequence[Mapping[str, Any]]) -> Answered:
    """Answers from rows of ``queries.parquet`` of one model and conditioning.

    Raises:
        ArtifactError: a stem is not in the gallery, which was embedded again since.
    """
    ids = {query[key] for query in queries for key in ("stem_id", "nearest_stem_id")}
    missing = sorted(ids - stems.place.keys())
    if missing:
        raise ArtifactError(
            f"{len(missing)} stems of the scores, {missing[0]!r} among them, are not in the "
            f"gallery of {len(stems.rows)} stems; score the corpus again with: stems evaluate "
            f"retrieval"
        )
    return Answered(
        targets=np.array([stems.place[query["stem_id"]] for query in queries], dtype=np.int64),
        nearest=np.array([stems.place[q["nearest_stem_id"]] for q in queries], dtype=np.int64),
        ranks=np.array([query["rank"] for query in queries], dtype=np.int64),
        asked=tuple(query["label"] for query in queries),
    )


def answer_kinds(stems: Stems, targets: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Which of ``SHARES`` each answer is; indices broadcast, -1 where the target is unlabelled.

    Args:
        stems: the gallery.
        targets: indices of the stems looked for.
        nearest: indices of the answers.
    """
    instruments, categories = stems.instruments[targets], stems.categories[targets]
    is_instrument = stems.instruments[nearest] == instruments
    is_category = stems.categories[nearest] == categories
    step = np.where(is_instrument, 0, np.where(is_category, 1, 2))
    is_track = stems.tracks[nearest] == stems.tracks[targets]
    kinds = np.where(is_track, 1, 4) + step
    kinds = np.where(nearest == targets, 0, kinds)
    return np.where(instruments == _UNLABELLED, -1, kinds)


def kind_chance(stems: Stems, targets: np.ndarray) -> np.ndarray:
    """Share of the gallery that is of each kind for each query: (query, 7), in percent."""
    gallery = np.arange(len(stems.rows))
    rows = max(1, _BLOCK_VALUES // len(gallery))
    found = []
    for first in range(0, len(targets), rows):
        kinds = answer_kinds(stems, targets[first : first + rows, None], gallery[None])
        found.append(np.stack([(kinds == k).mean(axis=1) for k in range(len(SHARES))], axis=1))
    return 100 * np.concatenate(found)


def has_same_label_in_track(stems: Stems, targets: np.ndarray) -> np.ndarray:
    """(query,) whether the track holds another stem of the instrument that was asked for."""
    keys = np.stack([stems.tracks, stems.instruments], axis=1)
    _, place, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    return (counts[place.reshape(-1)] > 1)[targets] & (stems.instruments[targets] != _UNLABELLED)


def _codes(values: Sequence[str | None]) -> np.ndarray:
    known = {value: i for i, value in enumerate(sorted({v for v in values if v is not None}))}
    return np.array([_UNLABELLED if v is None else known[v] for v in values], dtype=np.int64)
