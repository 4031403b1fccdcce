"""Two models on the same queries: is one better, and at what? Does a model hear the mix at all?

All from embeddings on disk (``default`` protocol). Differences are A minus B with 95 % intervals
from a bootstrap over tracks on the same draws and p-values from exchanging the two models track by
track (``ml.scores.intervals``). Queries of tracks that either has seen in training are left out.
p-values are not corrected for the number of metrics; differences by instrument have intervals only,
since there are many of them on few queries each.

*Heard*: ``within_label_rank`` (``ml.retrieval.evaluation.ranks``) of a model that finds the
instrument and does not listen stays at 50. The mix counts as heard where the whole 95 % interval
over tracks lies below. Where no query has such a place, or all are of one track, it cannot be said.
Promotion and the check of scores judge alike by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ml.artifacts import ArtifactError, DataLayout
from ml.metrics import RETRIEVAL, WITHIN_LABEL
from ml.plain import flat
from ml.retrieval.embeddings.files import Embeddings, read_embeddings
from ml.retrieval.embeddings.source import seen_of_corpus
from ml.retrieval.evaluation.evaluate import MetricValues, applying, metric_bootstraps
from ml.retrieval.evaluation.ranks import (
    WITHIN_CHANCE,
    Gallery,
    Queries,
    answer_queries,
    answer_values,
    common_queries,
)
from ml.scores.intervals import Interval, TrackBootstrap, permutation_p
from ml.training.models import FoundModel, embedded_corpora

BY_INSTRUMENT = ("recall@1", "recall@10", "normalized_rank_mean")
"""What is compared for each queried label."""


class NothingUnseenError(ArtifactError):
    """A corpus has nothing to compare on: models were trained on every track that has queries."""


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """What is compared, and with how many draws."""

    conditioning: str = "fine"
    """What queries are conditioned with."""
    resamples: int = 1000
    """Draws of the bootstrap."""
    permutations: int = 10_000
    """Exchanges of the permutation test."""
    seed: int = 0
    """Of both."""

    def __post_init__(self) -> None:
        if self.resamples < 1 or self.permutations < 1:
            raise ValueError(
                f"resamples={self.resamples}, permutations={self.permutations}: "
                f"expected at least one of each"
            )


@dataclass(frozen=True, kw_only=True)
class MetricDifference:
    """A metric of both models, percent."""

    metric: str
    n_queries: int
    a: float
    b: float
    difference: Interval
    """A minus B."""
    p: float | None = None
    """Two-sided; None by instrument."""


@dataclass(frozen=True, kw_only=True)
class CorpusComparison:
    """Both models on the queries of one corpus."""

    corpus: str
    n_queries: int
    n_gallery: int
    n_seen: int
    """Queries left out because a model has seen their track in training."""
    metrics: Sequence[MetricDifference]
    instruments: Mapping[str, Sequence[MetricDifference]]
    """Queried label → its metrics; by falling difference of the mean normalised rank."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that tells two models apart."""

    a: FoundModel
    b: FoundModel
    conditioning: str
    corpora: Sequence[CorpusComparison]
    config: Mapping[str, tuple[Any, Any]]
    """Dotted key → values of A and B, where they differ; None where one has no such key."""


def compare_models(
    layout: DataLayout,
    a: FoundModel,
    b: FoundModel,
    *,
    corpora: Sequence[str] | None = None,
    config: ComparisonConfig | None = None,
) -> Comparison:
    """Compare two models on the corpora that both have embedded.

    Args:
        layout: where embeddings lie.
        a: one model.
        b: the other.
        corpora: on which; default: all that both have embedded.
        config: what is compared; default: ``fine`` queries.

    Raises:
        NothingUnseenError: one of them was trained on every track of a corpus.
        ArtifactError: they are one model, have embedded no corpus in common, or one that was asked
            for is missing.
    """
    if a.model_id == b.model_id:
        raise ArtifactError(f"both are the model {a.name} ({a.model_id}); name two different ones")
    if a.name == b.name:
        a, b = (replace(model, name=f"{model.name} {model.model_id[:8]}") for model in (a, b))
    config = config or ComparisonConfig()
    chosen = _corpora(layout, a, b, corpora, config.conditioning)
    return Comparison(
        a=a,
        b=b,
        conditioning=config.conditioning,
        corpora=[_compare(layout, corpus, a, b, config) for corpus in chosen],
        config=config_difference(_facts(a), _facts(b)),
    )


def config_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Say where two nested configurations differ, by dotted key in alphabetical order."""
    one, other = flat(a), flat(b)
    return {
        key: (one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    }


def _facts(model: FoundModel) -> dict[str, Any]:
    """Gather a model's configuration, and what the manifest says of its making."""
    manifest = model.manifest
    if not manifest:
        return {}
    tracks = manifest.get("training_tracks", ())
    encoder = manifest.get("label_encoder") or {}
    return {
        **model.config,
        "made_of": {
            "training_corpora": sorted({track["corpus"] for track in tracks}),
            "training_tracks": len(tracks),
            "training_labels": len(manifest.get("training_labels", ())),
            "label_encoder": encoder.get("name"),
            "phase": manifest.get("phase"),
            "phase_1_model_id": manifest.get("phase_1_model_id"),
            "shards": [str(shard)[:12] for shard in manifest.get("shards", ())],
        },
    }


def _corpora(
    layout: DataLayout,
    a: FoundModel,
    b: FoundModel,
    wanted: Sequence[str] | None,
    conditioning: str,
) -> list[str]:
    """Choose the corpora that both have embedded, all of them or those that are wanted."""
    of_a, of_b = (embedded_corpora(layout, model, conditioning) for model in (a, b))
    both = [corpus for corpus in of_a if corpus in of_b]
    lacking = [corpus for corpus in wanted or [] if corpus not in both]
    if lacking or not both:
        listed = "; ".join(
            f"{model.name} has embedded {', '.join(corpora) or 'no corpus'}"
            for model, corpora in ((a, of_a), (b, of_b))
        )
        what = f"{lacking[0]} was not embedded by both" if lacking else "they share no corpus"
        raise ArtifactError(
            f"{a.name} and {b.name} cannot be compared: {what} (conditioning {conditioning}: "
            f"{listed}); embed it with both: stems embed {lacking[0] if lacking else 'CORPUS'} "
            f"--conditioning {conditioning}"
        )
    return list(wanted or both)


def unseen_queries(
    layout: DataLayout, corpus: str, models: Sequence[FoundModel], conditioning: str
) -> tuple[dict[str, Embeddings], Gallery, Queries, Queries]:
    """Read what models of different names made of a corpus, and whose tracks none has seen.

    Returns:
        Name → embeddings; the gallery; the queries of tracks that no model was trained on; and the
        other queries.

    Raises:
        ArtifactError: embeddings are missing, damaged, or of different stems.
    """
    embedded = {m.name: read_embeddings(layout, m.model_id, corpus, conditioning) for m in models}
    trained_on = [model.manifest.get("training_tracks", ()) for model in models]
    seen = seen_of_corpus(corpus, layout, trained_on) if any(trained_on) else set()
    return embedded, *common_queries(corpus, embedded, seen=seen)


def _compare(
    layout: DataLayout, corpus: str, a: FoundModel, b: FoundModel, config: ComparisonConfig
) -> CorpusComparison:
    embedded, gallery, queries, seen_queries = unseen_queries(
        layout, corpus, (a, b), config.conditioning
    )
    if not len(queries):
        raise NothingUnseenError(
            f"{a.name} or {b.name} was trained on every track of {corpus} that has queries; "
            f"compare them on another corpus with --corpus"
        )
    values_a, values_b = (
        answer_values(
            gallery, queries, answer_queries(gallery, queries, embeddings), config.conditioning
        )
        for embeddings in embedded.values()
    )
    tracks = gallery.songs[queries.targets]
    return CorpusComparison(
        corpus=corpus,
        n_queries=len(queries),
        n_gallery=len(gallery),
        n_seen=len(seen_queries),
        metrics=_by_metric(values_a, values_b, tracks, config),
        instruments=_by_instrument(queries.asked, values_a, values_b, tracks, config),
    )


def _by_metric(
    values_a: MetricValues, values_b: MetricValues, tracks: np.ndarray, config: ComparisonConfig
) -> list[MetricDifference]:
    bootstraps = metric_bootstraps(values_a, tracks, resamples=config.resamples, seed=config.seed)
    differences = []
    for metric, bootstrap in bootstraps.items():
        statistic = RETRIEVAL[metric].statistic
        a, b = applying(values_a[metric]), applying(values_b[metric])
        differences.append(
            MetricDifference(
                metric=metric,
                n_queries=len(a),
                a=bootstrap.interval(a, statistic).value,
                b=bootstrap.interval(b, statistic).value,
                difference=bootstrap.difference(a, b, statistic),
                p=permutation_p(
                    a,
                    b,
                    tracks[~np.isnan(values_a[metric])],
                    statistic,
                    permutations=config.permutations,
                    seed=config.seed,
                ),
            )
        )
    return differences


def _by_instrument(
    asked: np.ndarray,
    values_a: MetricValues,
    values_b: MetricValues,
    tracks: np.ndarray,
    config: ComparisonConfig,
) -> dict[str, list[MetricDifference]]:
    by_label: dict[str, list[MetricDifference]] = {}
    for label in sorted(set(asked)):
        chosen = asked == label
        bootstrap = TrackBootstrap(tracks[chosen], resamples=config.resamples, seed=config.seed)
        by_label[label] = []
        for metric in BY_INSTRUMENT:
            a, b = values_a[metric][chosen], values_b[metric][chosen]
            by_label[label].append(
                MetricDifference(
                    metric=metric,
                    n_queries=len(a),
                    a=float(a.mean()),
                    b=float(b.mean()),
                    difference=bootstrap.difference(a, b),
                )
            )
    place = BY_INSTRUMENT.index("normalized_rank_mean")
    return dict(sorted(by_label.items(), key=lambda item: item[1][place].difference.value))


@dataclass(frozen=True, kw_only=True)
class MixHeard:
    """What the place within the label says of one model on one corpus."""

    corpus: str
    n_queries: int
    """For stems whose label another stem has, of tracks unseen in training."""
    interval: Interval | None
    """Of ``within_label_rank``; None without such queries, its ends NaN with one track."""

    @property
    def is_known(self) -> bool:
        """Whether it can be said."""
        return self.interval is not None and not math.isnan(self.interval.high)

    @property
    def is_deaf(self) -> bool:
        """Whether the interval reaches chance."""
        return self.interval is not None and self.interval.high >= WITHIN_CHANCE

    @property
    def text(self) -> str:
        """Say so, with the figures: part of a sentence."""
        cannot = "whether the mix is heard cannot be said"
        if self.interval is None:
            return (
                f"{cannot} on {self.corpus}: no query of an unseen track is for a stem whose label "
                f"another stem has"
            )
        figure = f"{WITHIN_LABEL} on {self.corpus} is {self.interval.value:.1f}"
        if not self.is_known:
            return f"{figure}, of queries of one track only: {cannot}"
        figures = f"95 % interval {self.interval.low:.1f}…{self.interval.high:.1f}"
        found = "reaches 50 (chance): the mix is not heard" if self.is_deaf else "lies below 50"
        return f"{figure} ({self.n_queries} queries), its {figures} {found}"


def heard_by_scores(corpus: str, row: Mapping[str, Any] | None) -> MixHeard:
    """Tell it from the scores on disk.

    Args:
        corpus: its name.
        row: ``within_label_rank`` as ``ml.scores.files.read_scores`` returns it; None: no row.
    """
    if row is None:
        return MixHeard(corpus=corpus, n_queries=0, interval=None)
    low, high = (math.nan if row[end] is None else row[end] for end in ("low", "high"))
    interval = Interval(value=row["value"], low=low, high=high)
    return MixHeard(corpus=corpus, n_queries=row["n_queries"], interval=interval)


def mix_heard(
    layout: DataLayout, model: FoundModel, corpora: Iterable[str], config: ComparisonConfig
) -> list[MixHeard]:
    """Tell for each corpus whether a model hears the mix, by its embeddings on disk.

    Raises:
        ArtifactError: the model has not embedded a corpus, or the embeddings are damaged.
    """
    return [_mix_heard(layout, model, corpus, config) for corpus in corpora]


def _mix_heard(
    layout: DataLayout, model: FoundModel, corpus: str, config: ComparisonConfig
) -> MixHeard:
    embedded, gallery, queries, _ = unseen_queries(layout, corpus, [model], config.conditioning)
    if not len(queries):
        return MixHeard(corpus=corpus, n_queries=0, interval=None)
    places = answer_queries(gallery, queries, embedded[model.name]).within[WITHIN_LABEL]
    tracks, values = gallery.songs[queries.targets][~np.isnan(places)], applying(places)
    if not len(values):
        return MixHeard(corpus=corpus, n_queries=0, interval=None)
    bootstrap = TrackBootstrap(tracks, resamples=config.resamples, seed=config.seed)
    return MixHeard(corpus=corpus, n_queries=len(values), interval=bootstrap.interval(values))
