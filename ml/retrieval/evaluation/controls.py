"""What a figure is worth: answers that know the gallery's labels, and mixes of other tracks.

**Lookup**, rows beside those of models, which know no label of the gallery; on small galleries they
are hard to beat.

``label``: look the asked text up and hear nothing. All stems with this label come first, in random
order, the rest of the gallery after them, in random order too. Its figures are exact expectations
over these orders, not samples: among m stems with the asked text the target is at each place with
probability 1/m, so recall@k is min(k, m)/m, and its expected rank is (m + 1)/2. The median of
normalised ranks is a property of one order, and is left open.

``label+contrastive``: stems with the asked label first, and among equals the cosines of phase 1
(ties count against the query).

``two-part+label`` (any model whose vectors have a song part and an instrument part): the *hybrid*
answer, which users get from ``StemRetriever.query``. Of a stem with the asked text it is known what
it plays, so its instrument part counts as if it agreed wholly; other stems, unlabelled ones too,
count as they are heard. So a stem loses nothing by the labels of others but its place.

What is asked for is what queries are conditioned with: the finest label (``fine``), the coarsest
(``coarse``), "music" for a stem without labels, and for all stems (``none``: then all of the
gallery has the asked text). The target always has it.

**Swapped**: the same queries with the mix of another track. What is lost if the mix is not one's
own?

The target, the text asked for and the gallery stay. The mix is that of another track without *its*
stem of the same text, so that only the music differs, and no new prediction is needed: it is the
query for that other stem, as stored. A model that does not listen answers as before and loses
nothing; so does the row that looks the label up.

Which track: the tracks stand in a circle, in an order drawn with the evaluation's seed; the queries
of a track take, one after another, the mixes of the next track in which the same text was asked
for. Each track gives its mixes to one other track for each text. All are tracks that no model has
seen in training. A query whose text is asked for in its own track only is left out and counted:
loss and swapped figure are of the queries that are left.

The stem that the other mix lacks stays in the gallery, and comes before the target where a model
listens: with few stems a label, a place within the label can so fall behind chance.

Ranks and metrics: ``ml.retrieval.evaluation.ranks``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ml.metrics import RECALL_AT
from ml.retrieval.embeddings.files import Embeddings, vectors_of
from ml.retrieval.evaluation.ranks import (
    TIE_TOLERANCE,
    Answers,
    Gallery,
    Queries,
    answer_queries,
    answer_values,
    predicted_vectors,
    within_values,
)
from ml.scores.files import LABEL
from ml.tracks import MUSIC
from ml.training.models import CONTRASTIVE

LABEL_FIRST = f"{LABEL}+{CONTRASTIVE}"
WITH_LABEL = f"+{LABEL}"
"""Added to a model's name: its hybrid answer."""
_QUERY_BLOCK = 256


def lookup_values(
    gallery: Gallery, queries: Queries, conditioning: str, models: Mapping[str, Embeddings]
) -> dict[str, dict[str, np.ndarray]]:
    """Compute what each query contributes to each metric: row → metric → (query,) percent.

    Args:
        gallery: what is ranked.
        queries: what is looked for.
        conditioning: what the queries ask for.
        models: by name; without phase 1's there is no row ``label+contrastive``.
    """
    texts = _texts(gallery, conditioning)
    values: dict[str, dict[str, np.ndarray]] = {}
    for name, embeddings in models.items():
        if len(embeddings.manifest.get("part_shares", ())) > 1:
            answers = _hybrid_answers(gallery, queries, embeddings)
            values[name + WITH_LABEL] = answer_values(gallery, queries, answers, conditioning)
    if CONTRASTIVE in models:
        answers = answer_queries(gallery, queries, models[CONTRASTIVE], first=texts)
        values[LABEL_FIRST] = answer_values(gallery, queries, answers, conditioning)
    return {**values, LABEL: _expectations(gallery, queries.targets, texts, conditioning)}


def _hybrid_answers(gallery: Gallery, queries: Queries, embeddings: Embeddings) -> Answers:
    """Rank the gallery by song part and instrument part, the asked text standing for the latter."""
    vectors, stems = predicted_vectors(gallery, queries, embeddings), vectors_of(embeddings.gallery)
    song_share, *shares = embeddings.manifest["part_shares"]
    width, known = vectors.shape[1] // (1 + len(shares)), 1 - song_share
    stems = stems.astype(np.float64)
    ranks, nearest = np.empty((2, len(queries)), dtype=np.int64)
    places = {metric: np.empty(len(queries)) for metric in gallery.within}
    for first in range(0, len(queries), _QUERY_BLOCK):
        block = slice(first, first + _QUERY_BLOCK)
        some, targets = vectors[block].astype(np.float64), queries.targets[block]
        texts = [None if text == MUSIC else text for text in queries.asked[block]]
        asked = np.array(texts, dtype=object)[:, None]
        is_known = gallery.is_labelled & ((gallery.labels == asked) | (gallery.categories == asked))
        heard = some[:, width:] @ stems[:, width:].T
        score = some[:, :width] @ stems[:, :width].T + np.where(is_known, known, heard)
        rows = np.arange(len(some))
        own = score[rows, targets][:, None]
        is_ahead = score >= own - TIE_TOLERANCE  # the target itself too
        ranks[block] = is_ahead.sum(1)
        for metric, column in gallery.within.items():
            places[metric][block] = (is_ahead & (column == column[targets][:, None])).sum(1)
        score[rows, targets] = -np.inf
        nearest[block] = np.where(ranks[block] == 1, targets, score.argmax(1))
    within = {
        metric: within_values(gallery, gallery.within[metric], queries.targets, each)
        for metric, each in places.items()
    }
    return Answers(ranks=ranks, nearest=nearest, within=within)


def _texts(gallery: Gallery, conditioning: str) -> np.ndarray:
    """List what a query for each stem asks for: (stem,)."""
    if conditioning == "none":
        return np.full(len(gallery), MUSIC, dtype=object)
    labels = gallery.instruments(conditioning)
    return np.where(gallery.is_labelled, labels, MUSIC)


def _expectations(
    gallery: Gallery, targets: np.ndarray, texts: np.ndarray, conditioning: str
) -> dict[str, np.ndarray]:
    """Compute the expected figures of each query, stems with the asked text in random order."""

    def count(*columns: np.ndarray) -> np.ndarray:
        return gallery.count_like(*columns)[targets]

    asked = count(texts)
    right = 100.0 * count(texts, gallery.instruments(conditioning)) / asked
    within = {
        metric: within_values(gallery, column, targets, (count(texts, column) + 1) / 2)
        for metric, column in gallery.within.items()
    }
    return {
        **within,
        **{f"recall@{k}": 100.0 * np.minimum(k, asked) / asked for k in RECALL_AT},
        "normalized_rank_mean": 100.0 * (asked + 1) / (2 * len(gallery)),
        "right_instrument": np.where(gallery.is_labelled[targets], right, np.nan),
        "right_song": 100.0 * count(texts, gallery.tracks) / asked,
    }


def swap_mixes(gallery: Gallery, queries: Queries, seed: int) -> tuple[np.ndarray, Queries]:
    """Give each query the mix of another track, where the same text was asked for in one.

    Args:
        gallery: what is ranked.
        queries: each with the mix of its own track.
        seed: of the order of tracks.

    Returns:
        (query,) whether there is such a mix, and the queries that have one.
    """
    mixes = np.full(len(queries), -1, dtype=np.int64)
    for rows, others in _neighbours(gallery.songs[queries.targets], queries.asked, seed):
        mixes[rows] = np.resize(queries.targets[others], len(rows))
    kept = mixes >= 0
    return kept, Queries(
        targets=queries.targets[kept], asked=queries.asked[kept], mixes=mixes[kept]
    )


def _neighbours(
    tracks: np.ndarray, asked: np.ndarray, seed: int
) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Yield the queries of a track and a text, and those of the next track with the same text."""
    names = sorted(set(tracks))
    order = np.random.default_rng(seed).permutation(len(names))
    place = {names[i]: int(at) for at, i in enumerate(order)}
    by_text: dict[str, dict[str, list[int]]] = {}
    for row in sorted(range(len(tracks)), key=lambda row: place[tracks[row]]):
        by_text.setdefault(asked[row], {}).setdefault(tracks[row], []).append(row)
    for by_track in by_text.values():
        circle = list(by_track.values())
        if len(circle) > 1:
            yield from zip(circle, [*circle[1:], circle[0]], strict=True)
