"""The rows of the instrument analysis: by presence, by kind of answer, by instrument, by category.

Pure functions of one model's answers; what they mean stands in ``ml.retrieval.instruments``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ml.retrieval.bootstrap import Interval, Statistic, TrackBootstrap
from ml.retrieval.instrument_files import SHARES
from ml.retrieval.metrics import chance_scores, query_values
from ml.retrieval.nearest import Answered, Stems, kind_chance
from ml.retrieval.presence import PRESENCES, LabelPresence

UNLABELLED = "unlabelled"
BY_PRESENCE: dict[str, Statistic] = {
    "recall@1": "mean",
    "recall@10": "mean",
    "normalized_rank_mean": "mean",
    "normalized_rank_median": "median",
}
"""What is measured per presence group."""
UNIONS = {
    "recall@1/or-same-label": (0, 1),
    "right_category": (0, 1, 2, 4, 5),
    "right_category_and_track": (0, 1, 2),
}
"""Metrics that are sums of ``SHARES``, by their places."""


def presence_rows(
    stems: Stems,
    answers: Answered,
    presences: Mapping[str, LabelPresence],
    draws: Mapping[str, int],
) -> Iterator[dict[str, Any]]:
    """Recall and normalised rank of each group that has queries."""
    values = query_values(answers.ranks, len(stems.rows))
    chance = chance_scores(len(stems.rows))
    groups = np.array([presences[text].presence for text in answers.asked])
    tracks = stems.tracks[answers.targets]
    for group in PRESENCES:
        chosen = groups == group
        if not chosen.any():
            continue
        bootstrap = TrackBootstrap(tracks[chosen], **draws)
        for metric, statistic in BY_PRESENCE.items():
            found = values[metric][chosen]
            is_share = metric.startswith("recall")
            interval = (
                share_interval(bootstrap, found)
                if is_share
                else bootstrap.interval(found, statistic)
            )
            yield {
                "metric": f"{metric}/{group}",
                "n_queries": int(chosen.sum()),
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "chance": chance[metric],
            }


def kind_rows(
    stems: Stems, answers: Answered, kinds: np.ndarray, draws: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    """The seven shares, and the metrics that are sums of them, over queries of labelled stems."""
    labelled = kinds >= 0
    if not labelled.any():
        return
    chance = kind_chance(stems, answers.targets[labelled]).mean(axis=0)
    bootstrap = TrackBootstrap(stems.tracks[answers.targets][labelled], **draws)
    shares = {f"share/{name}": (place,) for place, name in enumerate(SHARES)}
    for metric, places in (UNIONS | shares).items():
        interval = share_interval(bootstrap, 100.0 * np.isin(kinds[labelled], places))
        yield {
            "metric": metric,
            "n_queries": int(labelled.sum()),
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
            "chance": float(chance[list(places)].sum()),
        }


def share_interval(bootstrap: TrackBootstrap, values: np.ndarray) -> Interval:
    """Mean and 95 % interval of values that are 0 or 100.

    Draws of equal values have no spread, so the bootstrap would call "0 of 18 found" certain. There
    the interval is the exact one of a binomial share (Clopper and Pearson, 1934) on as many trials
    as there are tracks: 0 of 18 tracks may still be 18.5 %.
    """
    interval = bootstrap.interval(values)
    if bootstrap.n_tracks < 2 or values.min() != values.max():
        return interval
    reach = 100 * (1 - 0.025 ** (1 / bootstrap.n_tracks))
    if interval.value == 0:
        return Interval(value=0.0, low=0.0, high=reach)
    return Interval(value=100.0, low=100.0 - reach, high=100.0)


def instrument_rows(
    stems: Stems, answers: Answered, kinds: np.ndarray, presences: Mapping[str, LabelPresence]
) -> list[dict[str, Any]]:
    """One row per instrument, those found most often first."""
    values = query_values(answers.ranks, len(stems.rows))
    codes = stems.instruments[answers.targets]
    rows = []
    for code in np.unique(codes[kinds >= 0]):
        chosen = np.flatnonzero(codes == code)
        target = stems.rows[answers.targets[chosen[0]]]
        presence = presences[answers.asked[chosen[0]]]
        counts = np.bincount(kinds[chosen], minlength=len(SHARES))
        rows.append(
            {
                "instrument": target["label"],
                "category": target["category"],
                "queries": len(chosen),
                **dict(zip(SHARES, (100 * counts / len(chosen)).tolist(), strict=True)),
                "recall@10": float(values["recall@10"][chosen].mean()),
                "normalized_rank_mean": float(values["normalized_rank_mean"][chosen].mean()),
                "presence": presence.presence,
                "nearest_training_label": presence.nearest,
                "similarity": presence.similarity,
            }
        )
    return sorted(rows, key=lambda row: (*(-row[share] for share in SHARES), row["instrument"]))


def confusion_rows(stems: Stems, answers: Answered) -> Iterator[dict[str, Any]]:
    """Of the queries that found another stem: its category, by the category looked for."""
    wrong = answers.nearest != answers.targets
    names = [row["category"] if row["labels"] else UNLABELLED for row in stems.rows]
    pairs: dict[str, dict[str, int]] = {}
    for target, nearest in zip(answers.targets[wrong], answers.nearest[wrong], strict=True):
        counts = pairs.setdefault(names[target], {})
        counts[names[nearest]] = counts.get(names[nearest], 0) + 1
    for category in sorted(pairs):
        total = sum(pairs[category].values())
        for nearest, count in sorted(pairs[category].items()):
            yield {
                "category": category,
                "nearest_category": nearest,
                "queries": count,
                "share": 100 * count / total,
            }
