"""Every metric of scores: what it is called, which way is up, and how queries are summed up.

The one table of metrics: evaluations, tables, pages, comparisons and promotion read it. What each
query contributes is computed in ``ml.retrieval.evaluation`` (``ranks``, ``controls``,
``alignment``), what a track in ``ml.beats.evaluate``. All are in percent where they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RECALL_AT = (1, 5, 10)
WITHIN_LABEL, WITHIN_CATEGORY = "within_label_rank", "within_category_rank"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric."""

    heading: str
    """On a terminal."""
    title: str = ""
    """On a page; empty where it is not shown there, or the page has words of its own."""
    statistic: Literal["mean", "median"] = "mean"
    """How what queries contribute is summed up."""
    is_lower_better: bool = False
    is_main: bool = False
    """Whether it is seen at a glance; the others are analyses of these."""
    is_detail: bool = False
    """Whether short tables leave it out (Dagster's page)."""
    may_promote: bool = False
    """Whether a champion may be chosen by it (``promotion.metric`` of the settings)."""
    like_stems: str = ""
    """Of a place among like stems, (place - 1) / (stems - 1) in percent: what these have in common.
    Below a table stands for each such metric how many queries it leaves out."""


RETRIEVAL: Mapping[str, Metric] = {
    WITHIN_LABEL: Metric(
        heading="in label",
        title="Within label",
        is_lower_better=True,
        is_main=True,
        may_promote=True,
        like_stems="label",
    ),
    WITHIN_CATEGORY: Metric(
        heading="in category",
        title="Within category",
        is_lower_better=True,
        is_detail=True,
        may_promote=True,
        like_stems="category",
    ),
    **{
        f"recall@{k}": Metric(
            heading=f"R@{k}", title=f"Recall@{k}", is_main=k == 10, may_promote=True
        )
        for k in RECALL_AT
    },
    "normalized_rank_mean": Metric(
        heading="NR mean", title="NR mean", is_lower_better=True, is_main=True, may_promote=True
    ),
    "normalized_rank_median": Metric(
        heading="NR median",
        title="NR median",
        statistic="median",
        is_lower_better=True,
        is_detail=True,
    ),
    "right_instrument": Metric(heading="instrument", title="Right instrument"),
    "right_song": Metric(heading="song", title="Right song", is_detail=True),
}
"""Of retrieval, in the order of tables."""
BEATS: Mapping[str, Metric] = {
    "f_measure": Metric(heading="F", title="F", is_main=True),
    "cmlt": Metric(heading="CMLt", title="CMLt", is_main=True),
    "amlt": Metric(heading="AMLt", title="AMLt", is_main=True),
    "peak_f_measure": Metric(heading="peak F", title="F of peaks"),
    "peak_cmlt": Metric(heading="peak CMLt"),
    "peak_amlt": Metric(heading="peak AMLt"),
    "average_precision": Metric(heading="frame AP", title="Frame precision"),
}
"""Of the beats of a track."""
METRICS: Mapping[str, Metric] = {
    **RETRIEVAL,
    **BEATS,
    "aligned_first": Metric(heading="aligned_first"),
    "aligned_rank": Metric(heading="aligned_rank", is_lower_better=True),
}
LOWER_IS_BETTER = frozenset(name for name, metric in METRICS.items() if metric.is_lower_better)
MAIN = tuple(name for name, metric in RETRIEVAL.items() if metric.is_main)
PROMOTING = tuple(name for name, metric in METRICS.items() if metric.may_promote)
