"""Two models side by side: a self-contained page, and the same as plain values.

What is compared: ``ml.retrieval.evaluation.compare``. Loss curves come from the records of the
runs.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from ml.artifacts import DataLayout
from ml.figures import BLUE, ORANGE
from ml.metrics import LOWER_IS_BETTER
from ml.reports.report import render_page
from ml.reports.sections import curve_plots
from ml.reports.trained import TrainedModel, trained_model
from ml.retrieval.evaluation.compare import Comparison, CorpusComparison, MetricDifference
from ml.training.models import FoundModel

TEMPLATE = "comparison.html.jinja"
LEVEL = 0.05
"""Below this p a difference is called one."""


def compared_runs(layout: DataLayout, comparison: Comparison) -> list[TrainedModel]:
    """Describe the models that have a checkpoint, with their curves in two colours.

    Raises:
        ArtifactError: a checkpoint is damaged.
    """
    return [
        _renamed(trained_model(layout, model.manifest.get("name", ""), model.checkpoint), model, c)
        for model, c in ((comparison.a, BLUE), (comparison.b, ORANGE))
        if model.checkpoint is not None
    ]


def comparison_page(layout: DataLayout, comparison: Comparison, tracking_url: str) -> str:
    """Render the page as text."""
    runs = compared_runs(layout, comparison)
    return render_page(
        TEMPLATE,
        title=f"{comparison.a.name} and {comparison.b.name}",
        comparison=comparison,
        tracking_url=tracking_url.rstrip("/"),
        curves=curve_plots(runs),
        runs=runs,
        better=better,
    )


def better(row: MetricDifference) -> str | None:
    """Say which is better, ``A`` or ``B``; None where that is not certain.

    The interval must lie on one side of 0, and p, where there is one, below 0.05: with few tracks
    the bootstrap's intervals are too narrow, while the permutation test stays exact.
    """
    low, high = row.difference.low, row.difference.high
    if math.isnan(low) or low * high <= 0 or (row.p is not None and row.p >= LEVEL):
        return None
    return "A" if (low > 0) != (row.metric in LOWER_IS_BETTER) else "B"


def comparison_values(layout: DataLayout, comparison: Comparison) -> dict[str, Any]:
    """Give the comparison as JSON types; None where there is no interval."""
    return {
        "a": _model(comparison.a),
        "b": _model(comparison.b),
        "conditioning": comparison.conditioning,
        "corpora": [_corpus(compared) for compared in comparison.corpora],
        "config": {key: {"a": a, "b": b} for key, (a, b) in comparison.config.items()},
        "curves": [
            {
                "model": curve.model,
                "metric": metric,
                "split": "valid" if curve.is_valid else "train",
                "steps": curve.steps.tolist(),
                "values": curve.values.tolist(),
            }
            for run in compared_runs(layout, comparison)
            for metric, curves in run.curves.items()
            for curve in curves
        ],
    }


def _renamed(run: TrainedModel, model: FoundModel, colour: str) -> TrainedModel:
    curves = {
        metric: [replace(curve, model=model.name, colour=colour) for curve in curves]
        for metric, curves in run.curves.items()
    }
    return replace(run, name=model.name, curves=curves)


def _model(model: FoundModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "model_id": model.model_id,
        "checkpoint": model.checkpoint and model.checkpoint.as_posix(),
        "mlflow_run_id": model.mlflow_run_id,
    }


def _corpus(compared: CorpusComparison) -> dict[str, Any]:
    return {
        "corpus": compared.corpus,
        "n_queries": compared.n_queries,
        "n_gallery": compared.n_gallery,
        "n_seen": compared.n_seen,
        "metrics": [_difference(row) for row in compared.metrics],
        "instruments": {
            label: [_difference(row) for row in rows]
            for label, rows in compared.instruments.items()
        },
    }


def _difference(row: MetricDifference) -> dict[str, Any]:
    values = asdict(row)
    interval = values.pop("difference")
    ends = {key: None if math.isnan(interval[key]) else interval[key] for key in ("low", "high")}
    return {**values, "difference": interval["value"], **ends}
