"""Scores of models on a corpus, from its embeddings (``default`` protocol; Table I).

Queries and gallery are those of ``ml.retrieval.embed``. Query tracks that *any* compared model has
seen in training are dropped and counted, so that all models answer the same queries; the gallery
keeps all stems. Beside each figure: chance, and a 95 % interval from a bootstrap over tracks.
Differences to ``untrained`` and ``spectrum`` come from the same draws (evaluation
``retrieval-paired``, model "A minus B").

Besides the metrics of ``ml.retrieval.metrics``: ``right_instrument`` is the share of queries whose
nearest stem has the label asked for (the category under ``coarse``; queries for unlabelled stems
are left out), ``right_song`` the share whose nearest stem is of the query's own track. Chance is
the share of such stems in the gallery.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.artifacts import Artifact, DataLayout, find_current, finish, lock
from ml.retrieval.answers import Answers, Gallery, answer_queries, common_gallery, gallery_chance
from ml.retrieval.bootstrap import Interval, Statistic, TrackBootstrap
from ml.retrieval.embedding_files import Embeddings, read_embeddings
from ml.retrieval.metrics import RECALL_AT
from ml.retrieval.score_files import FORMAT_VERSION, write_queries, write_scores

EVALUATION = "retrieval"
PAIRED = "retrieval-paired"
REFERENCES = ("untrained", "spectrum")
"""What the other models are compared with."""
METRICS: dict[str, Statistic] = {
    **{f"recall@{k}": "mean" for k in RECALL_AT},
    "normalized_rank_mean": "mean",
    "normalized_rank_median": "median",
    "right_instrument": "mean",
    "right_song": "mean",
}
"""What is reported, in this order, and how queries are summed up."""


def evaluate_retrieval(
    corpus: str,
    layout: DataLayout,
    models: Mapping[str, str],
    *,
    conditionings: Sequence[str] = ("fine",),
    resamples: int = 1000,
    seed: int = 0,
) -> Artifact:
    """Score models on a corpus that they have embedded.

    Args:
        corpus: its name.
        layout: where embeddings and scores lie.
        models: name → model_id, in the order of the table.
        conditionings: which queries; each gives its rows.
        resamples: draws of the bootstrap.
        seed: of the draws.

    Returns:
        The artifact with ``scores.parquet`` and ``queries.parquet`` (``ml.retrieval.score_files``).

    Raises:
        ArtifactError: a model has no embeddings of this corpus, or they are of different stems.
        ValueError: no models, or no query is left that no model has seen in training.
    """
    if not models:
        raise ValueError("there are no models to evaluate; train one first: stems train")
    loaded = {
        (name, conditioning): read_embeddings(layout, model_id, corpus, conditioning)
        for conditioning in conditionings
        for name, model_id in models.items()
    }
    identity = {
        "corpus": corpus,
        "models": list(models.items()),
        "embeddings": {name: e.manifest["fingerprint"] for (name, _), e in loaded.items()},
        "conditionings": conditionings,
        "resamples": resamples,
        "seed": seed,
    }
    folder = layout.scores(EVALUATION, corpus)
    found = find_current(folder, identity, format_version=FORMAT_VERSION)
    if found is not None:
        return found
    parts = [
        _evaluate(corpus, c, {name: loaded[name, c] for name in models}, resamples, seed)
        for c in conditionings
    ]
    scores = [row for part in parts for row in part.scores]
    with lock(folder / ".lock"):
        write_scores(scores, folder)
        write_queries([row for part in parts for row in part.queries], folder)
        return finish(
            folder,
            identity,
            format_version=FORMAT_VERSION,
            summary={
                **_summary(parts[0].scores),
                "seen_queries_dropped": max(part.n_seen for part in parts),
            },
        )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The rows of one conditioning."""

    scores: list[dict[str, Any]]
    queries: list[dict[str, Any]]
    n_seen: int


def _evaluate(
    corpus: str, conditioning: str, models: Mapping[str, Embeddings], resamples: int, seed: int
) -> _Part:
    gallery = common_gallery(corpus, models, conditioning)
    answers = {name: answer_queries(gallery, embeddings) for name, embeddings in models.items()}
    bootstrap = _Bootstraps(gallery.tracks[gallery.targets], resamples, seed)
    header = {
        "corpus": corpus,
        "conditioning": conditioning,
        "n_gallery": len(gallery.stem_ids),
    }
    return _Part(
        scores=[
            *_score_rows(header, gallery, answers, bootstrap),
            *_paired_rows(header, answers, bootstrap),
        ],
        queries=list(_query_rows(conditioning, gallery, answers)),
        n_seen=gallery.n_seen,
    )


class _Bootstraps:
    """Draws for all queries, and for the part of them that a metric applies to."""

    def __init__(self, tracks: np.ndarray, resamples: int, seed: int):
        self._tracks, self._resamples, self._seed = tracks, resamples, seed
        self._made: dict[bytes, TrackBootstrap] = {}

    def of(self, applies: np.ndarray) -> TrackBootstrap:
        key = applies.tobytes()
        if key not in self._made:
            tracks = self._tracks[applies].astype(str)
            self._made[key] = TrackBootstrap(tracks, resamples=self._resamples, seed=self._seed)
        return self._made[key]


def _score_rows(
    header: Mapping[str, Any],
    gallery: Gallery,
    answers: Mapping[str, Answers],
    bootstrap: _Bootstraps,
) -> Iterator[dict[str, Any]]:
    chance = gallery_chance(gallery)
    for name, answer in answers.items():
        for metric, statistic in METRICS.items():
            values = answer.values[metric]
            applies = ~np.isnan(values)
            if applies.any():
                interval = bootstrap.of(applies).interval(values[applies], statistic)
                counted = {**header, "n_queries": int(applies.sum())}
                yield _row(EVALUATION, counted, name, metric, interval, chance[metric])


def _paired_rows(
    header: Mapping[str, Any], answers: Mapping[str, Answers], bootstrap: _Bootstraps
) -> Iterator[dict[str, Any]]:
    pairs = [
        (name, reference)
        for reference in REFERENCES
        for name in answers
        if reference in answers and name not in REFERENCES
    ]
    for name, reference in pairs:
        for metric, statistic in METRICS.items():
            values, other = answers[name].values[metric], answers[reference].values[metric]
            applies = ~np.isnan(values)
            if applies.any():
                draws = bootstrap.of(applies)
                interval = draws.difference(values[applies], other[applies], statistic)
                counted = {**header, "n_queries": int(applies.sum())}
                model = f"{name} minus {reference}"
                yield _row(PAIRED, counted, model, metric, interval, chance=0.0)


def _row(
    evaluation: str,
    header: Mapping[str, Any],
    model: str,
    metric: str,
    interval: Interval,
    chance: float,
) -> dict[str, Any]:
    return {
        "evaluation": evaluation,
        **header,
        "model": model,
        "metric": metric,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "chance": chance,
    }


def _query_rows(
    conditioning: str, gallery: Gallery, answers: Mapping[str, Answers]
) -> Iterator[dict[str, Any]]:
    for name, answer in answers.items():
        for i, target in enumerate(gallery.targets):
            yield {
                "model": name,
                "conditioning": conditioning,
                "stem_id": gallery.stem_ids[target],
                "track_id": gallery.tracks[target],
                "label": gallery.asked[i],
                "rank": int(answer.ranks[i]),
                "nearest_stem_id": gallery.stem_ids[answer.nearest[i]],
            }


def _summary(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Recall and normalised rank of each model, for people."""
    shown = ("recall@1", "recall@10", "normalized_rank_mean")
    rows = [row for row in scores if row["evaluation"] == EVALUATION]
    counts = {"queries": max(r["n_queries"] for r in rows), "gallery": rows[0]["n_gallery"]}
    figures = {f"{r['model']} {r['metric']}": r["value"] for r in rows if r["metric"] in shown}
    return {**counts, **figures}
