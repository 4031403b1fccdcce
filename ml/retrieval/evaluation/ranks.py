"""What models answer: the ranks of targets in a gallery, and the scores made of them. Pure numpy.

The task: a query embedding was predicted from a mix and a label; somewhere in the gallery lies the
embedding of the stem that was taken out of that mix (the *target*). A good model ranks it first.
Riou et al. (arXiv:2411.19806v2, Table I) report recall@k and the normalised rank.

``Gallery`` and ``Queries`` are the same for all models; ``Answers`` are one model's.

Conventions:

* Similarity is the cosine; vectors are float32 and need not come normalised.
* Ranks start at 1. The whole gallery is ranked: other stems of the query's own track, which the
  query was predicted from, stay in it.
* **Ties count against the query.** A gallery row whose cosine lies within 8 ulp of the target's
  (ulp: the spacing of float32 just below 1, 2**-24) is counted as ranked before it. A collapsed
  model, for which all is one vector, so scores rank N and not rank 1.
* Ranks are exact: they do not depend on block sizes, cores or the matrix library. Float32 kernels
  give identical rows cosines that differ by up to 10 ulp, so what they put close to the limit of a
  tie (about four rows a query in a gallery of 100,000) is computed again in float64.
* Scores are in percent. Recall@k: higher is better. Normalised rank (rank / gallery size): lower
  is better; its median says more about the typical query, its mean more about the failures.
* Chance is stated beside each score: a target placed uniformly among N stems has recall@k = k/N
  and a normalised rank of (N + 1)/2N, mean and median.
* Does the mix matter? ``within_label_rank`` is the target's place among the gallery stems with its
  own finest label (the text, whatever was asked), (place - 1)/(count - 1) in percent: 0 is first,
  50 is chance, and a model that knows nothing but the label stays there. Queries for a stem without
  a label, or with one that no other stem has, are left out. ``within_category_rank`` is the same
  with coarsest labels.

Not here: intervals (``ml.scores.intervals``), which stems are queries
(``ml.retrieval.embeddings.build``), what is reported (``ml.retrieval.evaluation.evaluate``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import ArtifactError
from ml.metrics import RECALL_AT, WITHIN_CATEGORY, WITHIN_LABEL
from ml.retrieval.embeddings.files import ROW_BLOCK, Embeddings, unit_rows, vectors_of

if TYPE_CHECKING:
    import pyarrow as pa

WITHIN_CHANCE = 50.0
TIE_TOLERANCE = 8 * 2.0**-24
"""Cosines closer than this are equal: 8 ulp of float32 just below 1."""
_KERNEL_ERROR = 32 * 2.0**-24
"""More than a float32 kernel errs in a cosine; 10 ulp were seen in 64 to 3840 dimensions."""
_QUERY_BLOCK, _GALLERY_BLOCK = 1024, 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """The stems that queries are ranked among; each column (stem,) of objects."""

    stem_ids: np.ndarray
    tracks: np.ndarray
    """Track ids."""
    labels: np.ndarray
    """The finest label; None: the stem has none."""
    categories: np.ndarray
    """The coarsest label; None: the stem has none."""
    same_songs: Mapping[str, str] = field(default_factory=dict)
    """Track id → the track that stands for its song, where tracks share one."""

    def __len__(self) -> int:
        return len(self.stem_ids)

    @cached_property
    def is_labelled(self) -> np.ndarray:
        """(stem,) whether the stem has a label."""
        return np.array([label is not None for label in self.labels], dtype=bool)

    @cached_property
    def songs(self) -> np.ndarray:
        """(stem,) of what intervals are drawn: tracks, several of which may be one song."""
        songs = [self.same_songs.get(track, track) for track in self.tracks]
        return np.array(songs, dtype=object)

    def instruments(self, conditioning: str) -> np.ndarray:
        """Choose the column that says what a right instrument is: under ``coarse`` categories."""
        return self.categories if conditioning == "coarse" else self.labels

    @property
    def within(self) -> dict[str, np.ndarray]:
        """The metrics of places among like stems, each with the column that makes stems alike."""
        return {WITHIN_LABEL: self.labels, WITHIN_CATEGORY: self.categories}

    def count_like(self, *columns: np.ndarray) -> np.ndarray:
        """Count for each stem those, itself included, with its values in all columns: (stem,)."""
        rows = list(zip(*columns, strict=True))
        counts = Counter(rows)
        return np.array([counts[row] for row in rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class Queries:
    """What is looked for in a gallery, by which text."""

    targets: np.ndarray
    """(query,) index of the stem looked for."""
    asked: np.ndarray
    """(query,) the text the query was conditioned with."""
    mixes: np.ndarray | None = None
    """(query,) index of the stem that the mix lacks; None: the stem looked for."""

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What one model made of the queries."""

    ranks: np.ndarray
    """(query,) 1…gallery size."""
    nearest: np.ndarray
    """(query,) index of the stem that came first."""
    within: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Metric of ``Gallery.within`` → (query,) percent, NaN where it does not apply; empty where it
    was not asked for."""


def cosine_rows(queries: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make vectors whose cosines rank as Euclidean distances do.

    −‖q − z‖² / 2 is, but for what is the same for all of a query, q·z − ‖z‖² / 2: a product of
    (q, −½, 0) and (z, ‖z‖², s), with s such that all of these are equally long. Distances do not
    change when the gallery's mean is taken from both, which keeps float32 exact enough.

    Args:
        queries: (query, dim).
        gallery: (stem, dim).

    Returns:
        (query, dim + 2) and (stem, dim + 2) float32.
    """
    mean = gallery.mean(axis=0, dtype=np.float64)
    asked, stems = queries - mean, gallery - mean
    squares = np.square(stems).sum(axis=1)
    unit = np.sqrt(squares.mean()) or 1.0  # of length: all entries are of one order
    beside = squares / unit
    left = squares + np.square(beside)
    stems = np.column_stack([stems, beside, np.sqrt(left.max() - left)])
    asked = np.column_stack([asked, np.full(len(asked), -unit / 2), np.zeros(len(asked))])
    return asked.astype(np.float32), stems.astype(np.float32)


def gallery_of(table: pa.Table, manifest: Mapping[str, Any]) -> Gallery:
    """Take the columns of a gallery from the rows of ``gallery.parquet`` and its manifest."""
    is_labelled = [bool(labels) for labels in table["labels"].to_pylist()]

    def column(name: str, *, needs_label: bool = False) -> np.ndarray:
        pairs = zip(table[name].to_pylist(), is_labelled, strict=True)
        values = [value if known or not needs_label else None for value, known in pairs]
        return np.array(values, dtype=object)

    return Gallery(
        stem_ids=column("stem_id"),
        tracks=column("track_id"),
        labels=column("label", needs_label=True),
        categories=column("category", needs_label=True),
        same_songs=manifest.get("songs", {}),
    )


def common_queries(
    corpus: str, models: Mapping[str, Embeddings], *, seen: Collection[str] = ()
) -> tuple[Gallery, Queries, Queries]:
    """Find the gallery that all models embedded, and the queries that all of them answer.

    Args:
        corpus: its name, for errors.
        models: name → embeddings.
        seen: tracks seen in training besides those that the embeddings name.

    Returns:
        The gallery; queries of tracks that no model has seen in training; and of those that some
        model has seen.

    Raises:
        ArtifactError: the models embedded different stems.
    """
    first_name, first = next(iter(models.items()))
    stem_ids, asked_ids = (t["stem_id"].to_pylist() for t in (first.gallery, first.queries))
    for name, other in models.items():
        if (
            other.gallery["stem_id"].to_pylist() != stem_ids
            or other.queries["stem_id"].to_pylist() != asked_ids
        ):
            raise ArtifactError(
                f"the embeddings of {corpus} by {name} ({other.gallery.num_rows} stems, "
                f"{other.queries.num_rows} queries) are of other stems than those by "
                f"{first_name} ({len(stem_ids)} stems, {len(asked_ids)} queries); make them again "
                f"with: stems embed {corpus}"
            )
    place = {stem_id: i for i, stem_id in enumerate(stem_ids)}
    targets = np.array([place[stem_id] for stem_id in asked_ids], dtype=np.int64)
    asked = np.array(first.queries["label"].to_pylist(), dtype=object)
    all_seen = {*seen, *(track for e in models.values() for track in e.manifest["seen_tracks"])}
    is_seen = np.array([t in all_seen for t in first.queries["track_id"].to_pylist()], dtype=bool)
    return (
        gallery_of(first.gallery, first.manifest),
        Queries(targets=targets[~is_seen], asked=asked[~is_seen]),
        Queries(targets=targets[is_seen], asked=asked[is_seen]),
    )


def answer_queries(
    gallery: Gallery,
    queries: Queries,
    embeddings: Embeddings,
    *,
    first: np.ndarray | None = None,
) -> Answers:
    """Rank the gallery for each query by one model's embeddings.

    Args:
        gallery: what is ranked.
        queries: what is looked for.
        embeddings: of the model.
        first: (stem,) the text of each stem: those with the target's own come before all others.
    """
    vectors, stems = predicted_vectors(gallery, queries, embeddings), vectors_of(embeddings.gallery)
    if first is None:
        ranks, nearest = ranks_and_nearest(vectors, stems, queries.targets)
    else:
        ranks, nearest = ranks_in_groups(vectors, stems, queries.targets, first)
    within: dict[str, np.ndarray] = {}
    for metric, column in gallery.within.items():
        groups = column if first is None else list(zip(column, first, strict=True))
        places, _ = ranks_in_groups(vectors, stems, queries.targets, groups)
        within[metric] = within_values(gallery, column, queries.targets, places)
    return Answers(ranks=ranks, nearest=nearest, within=within)


def predicted_vectors(gallery: Gallery, queries: Queries, embeddings: Embeddings) -> np.ndarray:
    """Look up what one model predicted from the mix of each query: (query, dim)."""
    place = {stem: i for i, stem in enumerate(embeddings.queries["stem_id"].to_pylist())}
    mixes = queries.targets if queries.mixes is None else queries.mixes
    return vectors_of(embeddings.queries)[[place[stem] for stem in gallery.stem_ids[mixes]]]


def within_values(
    gallery: Gallery, column: np.ndarray, targets: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Turn places among the stems like the target into percent: (query,), 0 first, 100 last.

    Args:
        gallery: of the stems.
        column: (stem,) of the gallery; stems with the same value are alike, None is like nothing.
        targets: (query,) index of the stem looked for.
        places: (query,) 1…number of stems like the target.

    Returns:
        NaN where the target has no value, or one that no other stem has.
    """
    others = gallery.count_like(column)[targets] - 1
    applies = gallery.is_labelled[targets] & (others > 0)
    return np.where(applies, 100.0 * (places - 1) / np.maximum(others, 1), np.nan)


def answer_values(
    gallery: Gallery, queries: Queries, answers: Answers, conditioning: str
) -> dict[str, np.ndarray]:
    """Compute what each query contributes to each metric, in percent: (query,) a metric.

    Besides the metrics of ``query_values`` and ``Gallery.within``: ``right_instrument`` is 100
    where the nearest stem has the label of the target (NaN for queries for unlabelled stems),
    ``right_song`` where it is of the target's own track.
    """
    instruments, targets = gallery.instruments(conditioning), queries.targets
    right = np.where(instruments[answers.nearest] == instruments[targets], 100.0, 0.0)
    is_song = gallery.tracks[answers.nearest] == gallery.tracks[targets]
    return {
        **answers.within,
        **query_values(answers.ranks, len(gallery)),
        "right_instrument": np.where(gallery.is_labelled[targets], right, np.nan),
        "right_song": np.where(is_song, 100.0, 0.0),
    }


def answer_chance(gallery: Gallery, queries: Queries, conditioning: str) -> dict[str, float]:
    """Compute what each metric would be if the gallery came in random order, in percent."""
    chance = dict.fromkeys(gallery.within, WITHIN_CHANCE) | chance_scores(len(gallery))
    labelled = queries.targets[gallery.is_labelled[queries.targets]]
    for metric, column, targets in (
        ("right_instrument", gallery.instruments(conditioning), labelled),
        ("right_song", gallery.tracks, queries.targets),
    ):
        shares = gallery.count_like(column)[targets] / len(gallery)
        chance[metric] = 100 * float(shares.mean()) if len(shares) else 0.0
    return chance


def target_ranks(queries: np.ndarray, gallery: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Rank each query's target among all gallery rows, by descending cosine.

    Memory is one block of similarities (16 MB) and the vectors normalised, whatever the sizes.

    Args:
        queries: (query, dim).
        gallery: (stem, dim).
        targets: (query,) index into the gallery of the stem that each query looks for.

    Returns:
        (query,) int64, 1…number of gallery rows; ties count against the query.

    Raises:
        ValueError: a NaN, infinite or zero vector (names the row), shapes that do not fit, or a
            target outside the gallery.
    """
    queries, gallery, targets = _checked(queries, gallery, targets)
    ranks, _ = _scan(queries, gallery, targets, with_nearest=False)
    return ranks


def ranks_and_nearest(
    queries: np.ndarray, gallery: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rank as ``target_ranks`` does, and say which gallery row came first for each query.

    Returns:
        ranks (query,) and nearest (query,), both int64. ``nearest == targets`` exactly where
        ``ranks == 1``: where others tie with the target, one of them counts as the nearest.
    """
    queries, gallery, targets = _checked(queries, gallery, targets)
    ranks, best_other = _scan(queries, gallery, targets, with_nearest=True)
    return ranks, np.where(ranks == 1, targets, best_other)


def ranks_in_groups(
    queries: np.ndarray,
    gallery: np.ndarray,
    targets: np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank as ``ranks_and_nearest`` does, each target only among the rows of its own group.

    Args:
        queries: (query, dim).
        gallery: (stem, dim).
        targets: (query,) index into the gallery of the stem that each query looks for.
        groups: (stem,) the group of each gallery row.

    Returns:
        ranks (query,), 1…size of the target's group, and nearest (query,), both int64.
    """
    members: dict[Hashable, list[int]] = {}
    asked: dict[Hashable, list[int]] = {}
    for stem, group in enumerate(groups):
        members.setdefault(group, []).append(stem)
    for query, target in enumerate(targets):
        asked.setdefault(groups[target], []).append(query)
    ranks, nearest = np.empty((2, len(targets)), dtype=np.int64)
    for group, chosen in asked.items():
        rows = np.array(members[group])
        own = np.searchsorted(rows, targets[chosen])
        ranks[chosen], best = ranks_and_nearest(queries[chosen], gallery[rows], own)
        nearest[chosen] = rows[best]
    return ranks, nearest


def retrieval_scores(ranks: np.ndarray, gallery_size: int) -> dict[str, float]:
    """Compute recall@1/5/10 and normalised rank, in percent.

    Args:
        ranks: (query,) integers in 1…gallery_size.
        gallery_size: number of gallery rows.

    Returns:
        ``recall@1``, ``recall@5``, ``recall@10``, ``normalized_rank_mean``,
        ``normalized_rank_median``.

    Raises:
        ValueError: no ranks, or a rank outside 1…gallery_size.
    """
    values = query_values(ranks, gallery_size)
    scores = {f"recall@{k}": float(values[f"recall@{k}"].mean()) for k in RECALL_AT}
    scores["normalized_rank_mean"] = float(values["normalized_rank_mean"].mean())
    scores["normalized_rank_median"] = float(np.median(values["normalized_rank_median"]))
    return scores


def query_values(ranks: np.ndarray, gallery_size: int) -> dict[str, np.ndarray]:
    """Compute what each query contributes to each score, in percent: (query,) float64 per metric.

    The score is the mean of its column, for ``normalized_rank_median`` the median.

    Raises:
        ValueError: no ranks, or a rank outside 1…gallery_size.
    """
    ranks = np.asarray(ranks)
    if ranks.ndim != 1 or not len(ranks):
        raise ValueError(f"ranks have shape {ranks.shape}; expected (query,) with a query at least")
    if ranks.min() < 1 or ranks.max() > gallery_size:
        raise ValueError(
            f"ranks lie in {ranks.min()}…{ranks.max()}; expected 1…{gallery_size} (gallery size)"
        )
    values = {f"recall@{k}": 100.0 * (ranks <= k) for k in RECALL_AT}
    normalized = 100.0 * ranks / gallery_size
    return {**values, "normalized_rank_mean": normalized, "normalized_rank_median": normalized}


def chance_scores(gallery_size: int) -> dict[str, float]:
    """Compute the same scores for a target placed uniformly in the gallery, in percent."""
    if gallery_size < 1:
        raise ValueError(f"gallery size is {gallery_size}; expected at least 1")
    middle = 100.0 * (gallery_size + 1) / (2 * gallery_size)
    recalls = {f"recall@{k}": 100.0 * min(k, gallery_size) / gallery_size for k in RECALL_AT}
    return {**recalls, "normalized_rank_mean": middle, "normalized_rank_median": middle}


def _checked(
    queries: np.ndarray, gallery: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    queries, gallery = unit_rows(queries, "queries"), unit_rows(gallery, "gallery")
    targets = np.asarray(targets)
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions, the gallery {gallery.shape[1]}; "
            f"both must come from one model"
        )
    if targets.shape != (len(queries),) or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(
            f"targets are {targets.dtype} of shape {targets.shape}; "
            f"expected integers of shape ({len(queries)},)"
        )
    outside = np.flatnonzero((targets < 0) | (targets >= len(gallery)))
    if len(outside):
        row = int(outside[0])
        raise ValueError(
            f"target {targets[row]} of query {row} is outside the gallery of {len(gallery)} rows"
        )
    return queries, gallery, targets.astype(np.int64)


def _scan(
    queries: np.ndarray, gallery: np.ndarray, targets: np.ndarray, *, with_nearest: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Find ranks, and the best gallery row other than the target (-1 when not asked or none)."""
    ranks = np.ones(len(queries), dtype=np.int64)
    best_other = np.full(len(queries), -1, dtype=np.int64)
    block = np.empty((_QUERY_BLOCK, _GALLERY_BLOCK), dtype=np.float32)
    for first in range(0, len(queries), _QUERY_BLOCK):
        rows = slice(first, min(first + _QUERY_BLOCK, len(queries)))
        some, aims = queries[rows], targets[rows]
        own = np.einsum("qd,qd->q", some, gallery[aims], dtype=np.float64)
        best = np.full(len(some), -np.inf, dtype=np.float32)
        for start in range(0, len(gallery), _GALLERY_BLOCK):
            part = gallery[start : start + _GALLERY_BLOCK]
            cosine = np.matmul(some, part.T, out=block[: len(some), : len(part)])
            here = np.flatnonzero((aims >= start) & (aims < start + len(part)))
            cosine[here, aims[here] - start] = -np.inf  # the target does not rank before itself
            ranks[rows] += _count_ahead(cosine, own - TIE_TOLERANCE, some, part)
            if with_nearest:
                _update_best(best, best_other[rows], cosine, start)
    return ranks, best_other


def _count_ahead(
    cosine: np.ndarray, limit: np.ndarray, queries: np.ndarray, gallery: np.ndarray
) -> np.ndarray:
    """Count the gallery rows of a block that reach the limit of each query: (query,).

    Args:
        cosine: (query, stem) float32, with the error of a matrix kernel.
        limit: (query,) float64.
        queries: (query, dim), unit norm.
        gallery: (stem, dim), unit norm.
    """
    low = (limit - _KERNEL_ERROR).astype(np.float32)[:, None]
    high = (limit + _KERNEL_ERROR).astype(np.float32)[:, None]
    reached = np.empty(cosine.shape, dtype=bool)
    ahead = _count_rows(np.greater_equal(cosine, high, out=reached))
    doubtful = np.flatnonzero(_count_rows(np.greater_equal(cosine, low, out=reached)) > ahead)
    if len(doubtful):
        near = reached[doubtful]
        near &= cosine[doubtful] < high[doubtful]
        ahead[doubtful] += _count_exactly(near, limit[doubtful], queries[doubtful], gallery)
    return ahead


def _count_rows(flags: np.ndarray) -> np.ndarray:
    """Count the true entries of each row, (query,): in half the time of ``np.count_nonzero``."""
    # 16 bits hold a count: a block has 4096 columns.
    return np.add.reduce(flags.view(np.uint8), axis=1, dtype=np.uint16).astype(np.int64)


def _count_exactly(
    near: np.ndarray, limit: np.ndarray, queries: np.ndarray, gallery: np.ndarray
) -> np.ndarray:
    """Count the gallery rows in ``near`` (query, stem) that reach the limit: (query,)."""
    row, column = near.nonzero()
    if len(row) > near.size // 64:  # a collapsed model: faster by one product than by pairs
        exact = queries.astype(np.float64) @ gallery.astype(np.float64).T
        return np.count_nonzero(near & (exact >= limit[:, None]), axis=1)
    counts = np.zeros(len(near), dtype=np.int64)
    for first in range(0, len(row), ROW_BLOCK):
        left, right = row[first : first + ROW_BLOCK], column[first : first + ROW_BLOCK]
        exact = np.einsum("pd,pd->p", queries[left], gallery[right], dtype=np.float64)
        counts += np.bincount(left[exact >= limit[left]], minlength=len(counts))
    return counts


def _update_best(best: np.ndarray, best_row: np.ndarray, cosine: np.ndarray, start: int) -> None:
    """Keep, in place, the highest cosine so far and its gallery row."""
    column = cosine.argmax(axis=1)
    value = cosine[np.arange(len(cosine)), column]
    better = value > best
    best[better] = value[better]
    best_row[better] = start + column[better]
