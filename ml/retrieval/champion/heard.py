"""Is the mix heard? Whether a model's place within the label is better than chance.

``within_label_rank`` (``ml.retrieval.evaluation.ranks``): 50 is where a model stays that finds the
instrument and does not listen. The mix counts as heard where the whole 95 % interval over tracks
lies below 50. Where no query has such a place, or all are of one track, it cannot be said.

A file of its own, since promotion and the check of scores must judge alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.artifacts import DataLayout
from ml.metrics import WITHIN_LABEL
from ml.retrieval.evaluation.compare import ComparisonConfig, unseen_queries
from ml.retrieval.evaluation.evaluate import applying
from ml.retrieval.evaluation.ranks import WITHIN_CHANCE, answer_queries
from ml.scores.intervals import Interval, TrackBootstrap
from ml.training.models import FoundModel


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
