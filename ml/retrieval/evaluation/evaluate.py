"""Scores of models on a corpus, from its embeddings (Table I), by one of two protocols.

``default``: queries and gallery are those of ``ml.retrieval.embeddings.build``. ``predecessor``:
those of
``ml.retrieval.embeddings.build``, for the models that have an encoder; the scores are an
evaluation of
their own (``retrieval-predecessor``), and "film (encoder gallery)" is a row beside "film".

Query tracks that *any* compared model has seen in training are dropped and counted, so that all
models answer the same queries; the gallery keeps all stems. Rows over the seen tracks are an
evaluation of their own (``retrieval-seen``), made when asked for or when nothing else is left.
Beside each figure: chance, and a 95 % interval from a bootstrap over tracks. Differences to
``untrained`` and ``spectrum`` come from the same draws (evaluation ``retrieval-paired``, model
"A minus B"; ``default`` protocol only).

Besides the metrics of ``ml.retrieval.evaluation.ranks``: ``right_instrument`` is the share of
queries whose
nearest stem has the label asked for (the category under ``coarse``; queries for unlabelled stems
are left out), ``right_song`` the share whose nearest stem is of the query's own track. Chance is
the share of such stems in the gallery.

[protocols] A whole evaluation by one protocol: embeddings where it needs its own, scores, MLflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ml import kinds
from ml.artifacts import Artifact, DataLayout, find_current, finish
from ml.device import Precision
from ml.locks import lock
from ml.retrieval.embeddings.files import Embeddings, read_embeddings
from ml.retrieval.embeddings.seen import seen_of_corpus
from ml.retrieval.evaluation.ranks import (
    RECALL_AT,
    Answers,
    Gallery,
    answer_queries,
    common_gallery,
    gallery_chance,
)
from ml.scores.files import (
    PAIRED,
    read_artifact_scores,
    write_queries,
    write_scores,
)
from ml.scores.intervals import Interval, Statistic, TrackBootstraps
from ml.scores.tracking import log_scores, tracking_runs

if TYPE_CHECKING:
    from ml.retrieval.embeddings.model import EmbeddingModel


Protocol = Literal["default", "predecessor"]


PROTOCOLS: tuple[Protocol, ...] = ("default", "predecessor")


EVALUATION = "retrieval"


PREDECESSOR = "retrieval-predecessor"


EVALUATIONS: Mapping[Protocol, str] = {"default": EVALUATION, "predecessor": PREDECESSOR}
"""What the scores of each protocol are called."""


SEEN = "-seen"
"""Added to the name of an evaluation: over tracks that a model has seen in training."""


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
    protocol: Protocol = "default",
    conditionings: Sequence[str] = ("fine",),
    training_tracks: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    has_seen_rows: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> Artifact:
    """Score models on a corpus that they have embedded.

    Args:
        corpus: its name.
        layout: where embeddings and scores lie.
        models: name → model_id, in the order of the table.
        protocol: whose embeddings are scored.
        conditionings: which queries; each gives its rows.
        training_tracks: by model name, what it was trained on, to apply the present rule of
            ``ml.retrieval.embeddings.seen``; seen tracks that the embeddings name count in any
            case.
        has_seen_rows: also score the queries of seen tracks.
        resamples: draws of the bootstrap.
        seed: of the draws.

    Returns:
        The artifact with ``scores.parquet`` and ``queries.parquet`` (``ml.scores.files``;
        without the queries of seen tracks).

    Raises:
        ArtifactError: a model has no embeddings of this corpus, or they are of different stems.
        ValueError: no models, or no queries.
    """
    if not models:
        raise ValueError("there are no models to evaluate; train one first: stems train")
    loaded = {c: _load(layout, corpus, models, c, protocol) for c in conditionings}
    manifests = {name: e.manifest for part in loaded.values() for name, e in part.items()}
    seen = {track for manifest in manifests.values() for track in manifest["seen_tracks"]}
    if training_tracks:
        seen |= seen_of_corpus(corpus, layout, training_tracks.values())
    identity = {
        "corpus": corpus,
        "models": list(models.items()),
        "embeddings": {name: manifest["fingerprint"] for name, manifest in manifests.items()},
        "protocol": protocol,
        "conditionings": conditionings,
        "seen_tracks": sorted(seen),
        "has_seen_rows": has_seen_rows,
        "resamples": resamples,
        "seed": seed,
    }
    evaluation = EVALUATIONS[protocol]
    folder = layout.scores(evaluation, corpus)
    found = find_current(folder, identity, kinds.SCORES)
    if found is not None:
        return found
    plan = _Plan(
        evaluation=evaluation,
        corpus=corpus,
        seen=frozenset(seen),
        has_seen_rows=has_seen_rows,
        resamples=resamples,
        seed=seed,
    )
    parts = [_evaluate(plan, c, loaded[c]) for c in conditionings]
    with lock(folder / ".lock"):
        write_scores([row for part in parts for row in part.scores], folder)
        write_queries([row for part in parts for row in part.queries], folder)
        return finish(folder, identity, kinds.SCORES, summary=_summary(parts[0]))


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is the same for all conditionings."""

    evaluation: str
    corpus: str
    seen: frozenset[str]
    has_seen_rows: bool
    resamples: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The rows of one conditioning."""

    scores: list[dict[str, Any]]
    queries: list[dict[str, Any]]
    n_seen: int


def _load(
    layout: DataLayout,
    corpus: str,
    models: Mapping[str, str],
    conditioning: str,
    protocol: Protocol,
) -> dict[str, Embeddings]:
    """Row of the table → embeddings."""
    if protocol == "default":
        return {
            name: read_embeddings(layout, model_id, corpus, conditioning)
            for name, model_id in models.items()
        }
    from ml.retrieval.embeddings.files import read_predecessor

    return {
        name + suffix: embeddings
        for name, model_id in models.items()
        for suffix, embeddings in read_predecessor(layout, model_id, corpus, conditioning).items()
    }


def _evaluate(plan: _Plan, conditioning: str, models: Mapping[str, Embeddings]) -> _Part:
    gallery = common_gallery(plan.corpus, models, conditioning, seen=plan.seen)
    n_seen = len(gallery.seen_targets)
    groups = {plan.evaluation: gallery, plan.evaluation + SEEN: gallery.of_seen()}
    if len(gallery.targets) and not plan.has_seen_rows:
        del groups[plan.evaluation + SEEN]
    groups = {name: group for name, group in groups.items() if len(group.targets)}
    if not groups:
        raise ValueError(
            f"the embeddings of {plan.corpus} hold no query ({len(gallery.stem_ids)} stems): no "
            f"stem sounds together with another; evaluate other splits or another corpus"
        )
    scores, queries = [], []
    for evaluation, group in groups.items():
        answers = {name: answer_queries(group, embeddings) for name, embeddings in models.items()}
        tracks = group.tracks[group.targets]
        bootstrap = TrackBootstraps(tracks, resamples=plan.resamples, seed=plan.seed)
        header = {
            "corpus": plan.corpus,
            "conditioning": conditioning,
            "n_gallery": len(group.stem_ids),
        }
        scores += _score_rows(evaluation, header, group, answers, bootstrap)
        if evaluation == EVALUATION:
            scores += _paired_rows(header, answers, bootstrap)
        if evaluation == plan.evaluation:
            queries += _query_rows(conditioning, group, answers)
    return _Part(scores=scores, queries=queries, n_seen=n_seen)


def _score_rows(
    evaluation: str,
    header: Mapping[str, Any],
    gallery: Gallery,
    answers: Mapping[str, Answers],
    bootstrap: TrackBootstraps,
) -> Iterator[dict[str, Any]]:
    chance = gallery_chance(gallery)
    for name, answer in answers.items():
        for metric, statistic in METRICS.items():
            values = answer.values[metric]
            applies = ~np.isnan(values)
            if applies.any():
                interval = bootstrap.of(applies).interval(values[applies], statistic)
                counted = {**header, "n_queries": int(applies.sum())}
                yield _row(evaluation, counted, name, metric, interval, chance[metric])


def _paired_rows(
    header: Mapping[str, Any], answers: Mapping[str, Answers], bootstrap: TrackBootstraps
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


def _summary(part: _Part) -> dict[str, Any]:
    """Recall and normalised rank of each model, for people."""
    shown = ("recall@1", "recall@10", "normalized_rank_mean")
    first = part.scores[0]
    rows = [row for row in part.scores if row["evaluation"] == first["evaluation"]]
    counts = {"queries": max(r["n_queries"] for r in rows), "gallery": first["n_gallery"]}
    figures = {f"{r['model']} {r['metric']}": r["value"] for r in rows if r["metric"] in shown}
    is_seen = first["evaluation"].endswith(SEEN)
    dropped = {"seen_queries_dropped": 0 if is_seen else part.n_seen}
    return {**counts, **figures, **dropped, "only_seen_tracks": is_seen}


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is evaluated, and with what it is computed."""

    conditionings: tuple[str, ...] = ("fine",)
    """What queries ask for, from ``ml.retrieval.embeddings.model.CONDITIONINGS``."""
    splits: tuple[str, ...] | None = None
    """Which tracks; None: ``test`` where the corpus has such tracks, else all."""
    has_seen_rows: bool = False
    """Also score the tracks seen in training, as an evaluation of their own."""
    resamples: int = 1000
    """Draws of the bootstrap."""
    seed: int = 0
    """Of the draws."""
    device: str = "cpu"
    """Where whole files are embedded."""
    batch_chunks: int = 64
    """Chunks in a batch."""
    precision: Precision = "bf16"
    """``bf16`` computes the encoders in autocast."""

    def __post_init__(self) -> None:
        if self.resamples < 1 or self.batch_chunks < 1 or not self.conditionings:
            raise ValueError(
                f"resamples={self.resamples}, batch_chunks={self.batch_chunks}, "
                f"conditionings={self.conditionings}: expected at least one of each"
            )


def evaluate_by_protocol(
    corpus: str,
    models: Sequence[EmbeddingModel],
    layout: DataLayout,
    label_vectors: Mapping[str, np.ndarray],
    *,
    protocol: Protocol,
    config: EvaluationConfig,
    tracking_uri: str,
) -> tuple[Artifact, list[dict[str, Any]]]:
    """Score models and tell their MLflow runs.

    Args:
        corpus: its name.
        models: by ``default`` they must have embedded the corpus; ``predecessor`` embeds it here,
            with those that have an encoder.
        layout: where everything lies.
        label_vectors: (condition_dim,) per text, of the corpus; used by ``predecessor``.
        protocol: see ``ml.retrieval.evaluation.evaluate``.
        config: what is evaluated.
        tracking_uri: MLflow's store; when it cannot be reached, a warning is all that happens.

    Returns:
        The artifact, and its rows.

    Raises:
        ArtifactError: something that this needs was not made, or is damaged.
        ValueError: no model, or none that the protocol is for; no queries.
    """
    if protocol == "predecessor":
        from ml.retrieval.embeddings.build import embed_predecessor, models_with_encoder

        models = able = models_with_encoder(models)
        embed_predecessor(
            corpus,
            able,
            layout,
            label_vectors,
            conditionings=config.conditionings,
            splits=config.splits,
            device=config.device,
            batch_chunks=config.batch_chunks,
            precision=config.precision,
        )
    artifact = evaluate_retrieval(
        corpus,
        layout,
        {model.name: model.model_id for model in models},
        protocol=protocol,
        conditionings=config.conditionings,
        training_tracks={model.name: model.training_tracks for model in models},
        has_seen_rows=config.has_seen_rows,
        resamples=config.resamples,
        seed=config.seed,
    )
    rows = read_artifact_scores(artifact)
    log_scores(artifact, rows, tracking_runs(models), tracking_uri)
    return artifact, rows
