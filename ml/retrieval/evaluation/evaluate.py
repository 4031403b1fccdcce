"""Scores of models on a corpus, from its embeddings (Table I), by one of three protocols.

``default``: queries and gallery are those of ``ml.retrieval.embeddings.build``. ``predecessor``:
those of the same module's whole files, for the models that have an encoder; the scores are an
evaluation of their own (``retrieval-predecessor``), and "film (encoder gallery)" is a row beside
"film". ``paper``: likewise with means over all patches and Euclidean distance
(``retrieval-paper``).

Query tracks that *any* compared model has seen in training are dropped and counted, so that all
models answer the same queries; the gallery keeps all stems. Rows over the seen tracks are an
evaluation of their own (``retrieval-seen``), made when asked for or when nothing else is left.
Beside the models stand what needs no learning, and rows that know the gallery's labels
(``ml.retrieval.evaluation.controls``). Beside each figure: chance, and a 95 % interval over tracks.
Differences to ``REFERENCES`` come from the same draws (evaluation ``retrieval-paired``, model
"A minus B"; ``default`` protocol only). The same queries are answered with the mix of another track
too (``ml.retrieval.evaluation.controls``): ``retrieval-swapped`` has the figures,
``retrieval-swapped-loss`` by how much they are worse than with the own mix, paired by query;
positive is worse, for all metrics. Metrics: ``ml.retrieval.evaluation.ranks``; one that applies to
no query has no row, and the summary says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ml.artifacts import Artifact, DataLayout
from ml.device import Precision
from ml.metrics import LOWER_IS_BETTER, MAIN, RETRIEVAL
from ml.retrieval.embeddings.files import (
    MEANS,
    Embeddings,
    read_embeddings,
    read_predecessor,
    vector_column,
    vectors_of,
)
from ml.retrieval.embeddings.source import seen_of_corpus
from ml.retrieval.evaluation.controls import lookup_values, swap_mixes
from ml.retrieval.evaluation.ranks import (
    Answers,
    Gallery,
    Queries,
    answer_chance,
    answer_queries,
    answer_values,
    common_queries,
    cosine_rows,
)
from ml.scores.files import (
    LABEL,
    LOSS,
    PAIRED,
    SWAPPED,
    Evaluated,
    evaluate_once,
    log_scores,
    read_artifact_scores,
    score_row,
    tracking_runs,
    write_queries,
)
from ml.scores.intervals import TrackBootstrap
from ml.scores.text import swapped_notes, within_notes

if TYPE_CHECKING:
    from ml.retrieval.embeddings.model import EmbeddingModel

EVALUATION_VERSION = 4
"""Part of the identity of scores: goes up when what is computed changes."""
Protocol = Literal["default", "predecessor", "paper"]
EVALUATION = "retrieval"
EVALUATIONS: Mapping[Protocol, str] = {
    "default": EVALUATION,
    "predecessor": "retrieval-predecessor",
    "paper": "retrieval-paper",
}
"""What the scores of each protocol are called."""
SEEN = "-seen"
"""Added to the name of an evaluation: over tracks that a model has seen in training."""
REFERENCES = ("untrained", "spectrum", LABEL)
"""What the other models are compared with: what needs no learning."""

MetricValues = Mapping[str, np.ndarray]
"""Metric → (query,) percent; NaN where it does not apply to a query."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is evaluated, and with what it is computed."""

    conditionings: tuple[str, ...] = ("fine",)
    """What queries ask for, from ``ml.tracks.CONDITIONINGS``."""
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
        models: by ``default`` they must have embedded the corpus; the others embed it here, with
            those that have an encoder.
        layout: where everything lies.
        label_vectors: (condition_dim,) per text, of the corpus; not used by ``default``.
        protocol: whose embeddings are scored.
        config: what is evaluated.
        tracking_uri: MLflow's store; when it cannot be reached, a warning is all that happens.

    Returns:
        The artifact, and its rows.

    Raises:
        ArtifactError: something that this needs was not made, or is damaged.
        ValueError: no model, or none that the protocol is for; no queries.
    """
    if protocol != "default":
        from ml.retrieval.embeddings.build import embed_predecessor, models_with_encoder

        models = models_with_encoder(models)
        embed_predecessor(
            corpus,
            models,
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
            ``ml.retrieval.embeddings.source``; seen tracks that the embeddings name count in any
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
    embedded = {c: _read_embeddings(layout, corpus, models, c, protocol) for c in conditionings}
    manifests = {name: e.manifest for part in embedded.values() for name, e in part.items()}
    seen = {track for manifest in manifests.values() for track in manifest["seen_tracks"]}
    if training_tracks:
        seen |= seen_of_corpus(corpus, layout, training_tracks.values())
    identity = {
        "evaluation_version": EVALUATION_VERSION,
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
    plan = _Plan(
        evaluation=EVALUATIONS[protocol],
        corpus=corpus,
        seen=frozenset(seen),
        has_seen_rows=has_seen_rows,
        resamples=resamples,
        seed=seed,
    )
    compute = partial(_evaluate, plan, embedded)
    return evaluate_once(layout, plan.evaluation, corpus, identity, compute)


def metric_bootstraps(
    values: MetricValues, tracks: np.ndarray, *, resamples: int, seed: int
) -> dict[str, TrackBootstrap]:
    """Draw tracks for each metric of retrieval that applies to a query at least.

    Args:
        values: of any model: to which queries a metric applies does not depend on the model.
        tracks: (query,) the track of each query.
        resamples: number of draws.
        seed: of the draws.
    """
    applies = {metric: ~np.isnan(values[metric]) for metric in RETRIEVAL}
    return {
        metric: TrackBootstrap(tracks[chosen], resamples=resamples, seed=seed)
        for metric, chosen in applies.items()
        if chosen.any()
    }


def applying(values: np.ndarray) -> np.ndarray:
    """Leave out the queries that a metric does not apply to."""
    return values[~np.isnan(values)]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is the same for all conditionings."""

    evaluation: str
    corpus: str
    seen: frozenset[str]
    has_seen_rows: bool
    resamples: int
    seed: int


def _read_embeddings(
    layout: DataLayout,
    corpus: str,
    models: Mapping[str, str],
    conditioning: str,
    protocol: Protocol,
) -> dict[str, Embeddings]:
    """Read row of the table → embeddings."""
    if protocol == "default":
        return {
            name: read_embeddings(layout, model_id, corpus, conditioning)
            for name, model_id in models.items()
        }
    before = MEANS if protocol == "paper" else ""
    read = {
        name + suffix: embeddings
        for name, model_id in models.items()
        for suffix, embeddings in read_predecessor(
            layout, model_id, corpus, conditioning, before=before
        ).items()
    }
    return {name: _by_distance(x) for name, x in read.items()} if before else read


def _by_distance(embeddings: Embeddings) -> Embeddings:
    """Give embeddings vectors whose cosines rank as the Euclidean distances of theirs do."""
    tables = (embeddings.queries, embeddings.gallery)
    rows = cosine_rows(*map(vectors_of, tables))
    queries, gallery = (
        table.set_column(table.schema.get_field_index("vector"), "vector", vector_column(vectors))
        for table, vectors in zip(tables, rows, strict=True)
    )
    return replace(embeddings, queries=queries, gallery=gallery)


def _evaluate(plan: _Plan, embedded: Mapping[str, Mapping[str, Embeddings]]) -> Evaluated:
    """Score all conditionings."""
    scores: list[dict[str, Any]] = []
    query_rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for conditioning, models in embedded.items():
        gallery, unseen, seen = common_queries(plan.corpus, models, seen=plan.seen)
        groups = {plan.evaluation: unseen, plan.evaluation + SEEN: seen}
        if len(unseen) and not plan.has_seen_rows:
            del groups[plan.evaluation + SEEN]
        rows: list[dict[str, Any]] = []
        for evaluation, queries in groups.items():
            if not len(queries):
                continue
            answers = {name: answer_queries(gallery, queries, e) for name, e in models.items()}
            values = _values(gallery, queries, answers, conditioning, models)
            rows += _score_rows(plan, evaluation, conditioning, gallery, queries, values)
            if evaluation == plan.evaluation:
                query_rows += _query_rows(conditioning, gallery, queries, answers)
                rows += _swapped_rows(plan, conditioning, gallery, queries, values, models)
        if not rows:
            raise ValueError(
                f"the embeddings of {plan.corpus} hold no query ({len(gallery)} stems): no stem "
                f"sounds together with another; evaluate other splits or another corpus"
            )
        summary = summary or _summary(rows, len(seen), gallery, unseen if len(unseen) else seen)
        scores += rows
    return Evaluated(scores=scores, summary=summary, write_more=partial(write_queries, query_rows))


def _values(
    gallery: Gallery,
    queries: Queries,
    answers: Mapping[str, Answers],
    conditioning: str,
    models: Mapping[str, Embeddings],
) -> dict[str, MetricValues]:
    """Compute what each query contributes, for the models and the rows that know the labels."""
    return {
        **{name: answer_values(gallery, queries, a, conditioning) for name, a in answers.items()},
        **lookup_values(gallery, queries, conditioning, models),
    }


def _score_rows(
    plan: _Plan,
    evaluation: str,
    conditioning: str,
    gallery: Gallery,
    queries: Queries,
    values: Mapping[str, MetricValues],
) -> Iterator[dict[str, Any]]:
    """Make the rows of each model; for the ``default`` protocol also of paired differences."""
    bootstraps = metric_bootstraps(
        next(iter(values.values())),
        gallery.songs[queries.targets],
        resamples=plan.resamples,
        seed=plan.seed,
    )
    header = {"corpus": plan.corpus, "conditioning": conditioning, "n_gallery": len(gallery)}
    chance = answer_chance(gallery, queries, conditioning)
    for name in values:
        own = {**header, "evaluation": evaluation, "model": name}
        for metric in (metric for metric in bootstraps if metric in values[name]):
            bootstrap, each = bootstraps[metric], applying(values[name][metric])
            interval = bootstrap.interval(each, RETRIEVAL[metric].statistic)
            yield score_row(own, metric, interval, n_queries=len(each), chance=chance[metric])
    if evaluation == EVALUATION:
        yield from _paired_rows(header, values, bootstraps)


def _paired_rows(
    header: Mapping[str, Any],
    values: Mapping[str, MetricValues],
    bootstraps: Mapping[str, TrackBootstrap],
) -> Iterator[dict[str, Any]]:
    pairs = [
        (name, reference)
        for reference in REFERENCES
        for name in values
        if reference in values and name not in REFERENCES
    ]
    for name, reference in pairs:
        own = {**header, "evaluation": PAIRED, "model": f"{name} minus {reference}"}
        yield from _difference_rows(own, values[name], values[reference], bootstraps)


def _difference_rows(
    header: Mapping[str, Any],
    values: MetricValues,
    others: MetricValues,
    bootstraps: Mapping[str, TrackBootstrap],
) -> Iterator[dict[str, Any]]:
    """Make the row of each metric that both have: ``values`` minus ``others``, by query."""
    for metric in (m for m in bootstraps if m in values and m in others):
        each, other = applying(values[metric]), applying(others[metric])
        interval = bootstraps[metric].difference(each, other, RETRIEVAL[metric].statistic)
        yield score_row(header, metric, interval, n_queries=len(each), chance=0.0)


def _swapped_rows(
    plan: _Plan,
    conditioning: str,
    gallery: Gallery,
    queries: Queries,
    values: Mapping[str, MetricValues],
    models: Mapping[str, Embeddings],
) -> Iterator[dict[str, Any]]:
    """Make the rows with the mixes of other tracks, and of what each figure loses by that."""
    kept, swapped = swap_mixes(gallery, queries, plan.seed)
    if not len(swapped):
        return
    answers = {name: answer_queries(gallery, swapped, e) for name, e in models.items()}
    others = _values(gallery, swapped, answers, conditioning, models)
    yield from _score_rows(plan, plan.evaluation + SWAPPED, conditioning, gallery, swapped, others)
    header = {"corpus": plan.corpus, "conditioning": conditioning, "n_gallery": len(gallery)}
    bootstraps = metric_bootstraps(
        next(iter(others.values())),
        gallery.songs[swapped.targets],
        resamples=plan.resamples,
        seed=plan.seed,
    )
    for name in values:
        own = {**header, "evaluation": plan.evaluation + LOSS, "model": name}
        pairs = {m: (each[kept], others[name][m]) for m, each in values[name].items()}
        high = {m: pair[m in LOWER_IS_BETTER] for m, pair in pairs.items()}
        low = {m: pair[m not in LOWER_IS_BETTER] for m, pair in pairs.items()}
        yield from _difference_rows(own, high, low, bootstraps)


def _query_rows(
    conditioning: str, gallery: Gallery, queries: Queries, answers: Mapping[str, Answers]
) -> Iterator[dict[str, Any]]:
    for name, answer in answers.items():
        for i, target in enumerate(queries.targets):
            yield {
                "model": name,
                "conditioning": conditioning,
                "stem_id": gallery.stem_ids[target],
                "track_id": gallery.tracks[target],
                "label": queries.asked[i],
                "rank": int(answer.ranks[i]),
                "nearest_stem_id": gallery.stem_ids[answer.nearest[i]],
            }


def _summary(
    rows: Sequence[Mapping[str, Any]], n_seen: int, gallery: Gallery, queries: Queries
) -> dict[str, Any]:
    """Pick recall and ranks of each model under one conditioning, for people."""
    shown = {"recall@1", *MAIN}
    evaluation = rows[0]["evaluation"]
    first = [row for row in rows if row["evaluation"] == evaluation]
    is_seen = evaluation.endswith(SEEN)
    notes, swapped = "; ".join(within_notes(first)), "; ".join(swapped_notes(rows, evaluation))
    return {
        "queries": len(queries),
        "gallery": len(gallery),
        **{f"{r['model']} {r['metric']}": r["value"] for r in first if r["metric"] in shown},
        "seen_queries_dropped": 0 if is_seen else n_seen,
        "only_seen_tracks": is_seen,
        "intervals": TrackBootstrap(gallery.songs[queries.targets], resamples=1).method,
        **({"within": notes} if notes else {}),
        **({"swapped": swapped} if swapped else {}),
    }
