"""Stems by an instrument in words alone, without a mix: by the labels that mean it, best first.

A stem's score is the cosine of the text with the nearest of its labels, coarse or fine, by the
label encoder. Stems of one label are equal then; among these, the more typical comes first: the one
whose vector is nearer to the centroid of the label's stems. Whatever is still equal is in the order
of the keys. All of it is a function of the table and the text.

Differs: Riou et al. always ask with a mix. The model is not asked here at all, since its predictor
without a mix says nothing of how an instrument sounds (it was never trained so).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ml.labels.spellings import read_spelling
from ml.retrieval.tables.database import sql_text
from ml.retrieval.tables.search import Hit, StemTables, TableRows, label_filter


def search_by_label(
    tables: StemTables,
    rows: TableRows,
    label_cosines: Sequence[tuple[str, float]],
    k: int,
    *,
    where: str | None = None,
    exclude_tracks: Sequence[str] = (),
    per_track: int | None = None,
) -> list[tuple[Hit, str]]:
    """Find the k stems whose labels are nearest to a text.

    Args:
        tables: what is searched.
        rows: the same tables, for the centroids.
        label_cosines: all labels of the table with their cosine to the text, highest first.
        k: how many; fewer come back when the filters leave fewer.
        where: an SQL condition on the columns of ``stem_embeddings``.
        exclude_tracks: track ids that must not be found.
        per_track: at most so many stems of one track.

    Returns:
        Best first: the stem, its score the cosine of text and label, and that label.

    Raises:
        ValueError: ``where`` is not understood.
    """
    labelled: list[tuple[Hit, str]] = []
    for label, cosine in label_cosines:
        is_searched = False
        while not is_searched and len(labelled) < k:
            left = k - len(labelled)
            condition = _condition(label, where, [hit.row for hit, _ in labelled], per_track)
            hits = tables.search(
                rows.centroid(label),
                left,
                where=condition,
                exclude_tracks=exclude_tracks,
                per_track=per_track,
            )
            kept = _within(hits, [hit for hit, _ in labelled], per_track)
            labelled += [(replace(hit, score=cosine), label) for hit in kept]
            is_searched = len(hits) < left or not kept
    return labelled


def named_labels(instrument: str, labels: Sequence[str]) -> list[str]:
    """Choose the labels of a gallery that say what was asked for.

    Args:
        instrument: what was asked for, free text.
        labels: of the gallery.

    Returns:
        Those that are the same text but for case and spaces; else those that the taxonomy's
        reading of it names ("e-piano" reads "electric piano"); often none.
    """
    asked = " ".join(instrument.lower().split())
    same = [label for label in labels if label.lower() == asked]
    return same or [label for label in labels if label in read_spelling(instrument).labels[-1:]]


def best_hits(hits: Iterable[Hit], k: int, per_track: int | None) -> list[Hit]:
    """Choose the k best of hits, each stem once, at most so many of a track; best first."""
    best: dict[str, Hit] = {}
    for hit in sorted(hits, key=lambda hit: (-hit.score, hit.row["key"])):
        best.setdefault(hit.row["key"], hit)
    return _within(list(best.values()), [], per_track)[:k]


def nearest_first(cosines: np.ndarray, labels: Sequence[str]) -> list[tuple[str, float]]:
    """Sort labels by their cosines (label,), highest first; equal ones by the alphabet."""
    order = np.lexsort((labels, -cosines))
    return [(labels[int(i)], float(cosines[i])) for i in order]


def nearest_labels(
    vector: np.ndarray, known: Mapping[str, np.ndarray], k: int = 3
) -> list[tuple[str, float]]:
    """Find the labels that a query's text is closest to: how the model will take it.

    Args:
        vector: (dim,) of the text, unit norm.
        known: (dim,) per text that the model has met in training, by the same label encoder.
        k: how many.

    Returns:
        (label, cosine), nearest first; equal ones in the order of the alphabet.
    """
    texts = sorted(known)
    if not texts:
        return []
    cosines = np.array([known[text] @ vector for text in texts], dtype=np.float64)
    return nearest_first(cosines, texts)[:k]


def _condition(label: str, where: str | None, found: Sequence[dict], per_track: int | None) -> str:
    """Ask for the stems of a label that are not found yet and whose tracks are not full."""
    parts = [label_filter(label), *([f"({where})"] if where else [])]
    if found:
        parts.append(f"key NOT IN ({', '.join(sql_text(row['key']) for row in found)})")
    counts = Counter((row["corpus"], row["track_id"]) for row in found)
    parts += [
        f"NOT (corpus = {sql_text(corpus)} AND track_id = {sql_text(track)})"
        for (corpus, track), count in counts.items()
        if per_track is not None and count >= per_track
    ]
    return " AND ".join(parts)


def _within(hits: Sequence[Hit], found: Sequence[Hit], per_track: int | None) -> list[Hit]:
    """Keep the hits that do not overfill their tracks."""
    counts = Counter((hit.row["corpus"], hit.row["track_id"]) for hit in found)
    kept = []
    for hit in hits:
        track = (hit.row["corpus"], hit.row["track_id"])
        counts[track] += 1
        if per_track is None or counts[track] <= per_track:
            kept.append(hit)
    return kept
