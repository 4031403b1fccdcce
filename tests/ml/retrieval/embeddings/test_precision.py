"""bf16 moves no score by more than half a point against fp32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from ml.artifacts import DataLayout
from ml.device import Precision, autocast
from ml.models.stem_jepa import StemJepa
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.embeddings.files import read_embeddings, vectors_of
from ml.retrieval.evaluation.evaluate import evaluate_retrieval
from ml.scores.files import read_scores
from ml.training.config import training_config

RATE_HZ = 16_000
TRACKS = 400
PERCENT = ("recall@1", "recall@5", "recall@10", "normalized_rank_mean", "normalized_rank_median")


def model(preset: str, precision: Precision) -> StemJepa:
    """The same random weights for both precisions."""
    torch.manual_seed(0)
    config = training_config(preset, size="tiny", condition_dim=40).model
    found = StemJepa(config)
    found.manifest = {"name": precision, "model_id": f"id-{precision}"}
    return found.eval()


def sounds(seed: int) -> dict[str, tuple[str, np.ndarray]]:
    """Three stems near the tone colour of their track, each with a rhythm of its own."""
    random = np.random.default_rng(seed)
    time = np.arange(RATE_HZ) / RATE_HZ
    colour = random.uniform(100, 7000, 4)
    found = {}
    for label in ("bass", "guitar", "piano"):
        partials = colour * random.uniform(0.93, 1.07, 4)
        beat = 0.5 + 0.5 * np.sin(2 * np.pi * random.uniform(1, 6) * time)
        tone = 0.1 * np.sin(2 * np.pi * partials[:, None] * time).sum(0)
        noise = 0.02 * random.standard_normal(len(time))
        found[label] = (label, (beat * tone + noise).astype(np.float32))
    return found


def scores_of(layout: DataLayout, name: str) -> Mapping[str, float]:
    return {
        row["metric"]: row["value"]
        for row in read_scores(layout, evaluation="retrieval")
        if row["model"] == name and row["metric"] in PERCENT
    }


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["contrastive", "film"])
def test_bf16_moves_no_score_by_more_than_half_a_point(
    preset: str, write_corpus: Any, layout: DataLayout, label_vectors: dict[str, np.ndarray]
) -> None:
    with autocast(torch.device("cpu"), "bf16"):
        if not torch.is_autocast_enabled("cpu"):
            pytest.skip("this CPU has no native bf16: it computes in fp32")
    write_corpus("many", {f"track {i}": sounds(i) for i in range(TRACKS)})
    for precision in ("fp32", "bf16"):
        models = [model(preset, precision)]
        embed_corpus("many", models, layout, label_vectors, precision=precision)
    names = {"fp32": "id-fp32", "bf16": "id-bf16"}
    exact, rounded = (read_embeddings(layout, model_id, "many") for model_id in names.values())
    assert not np.array_equal(vectors_of(exact.gallery), vectors_of(rounded.gallery))
    evaluate_retrieval("many", layout, names)
    fp32, bf16 = scores_of(layout, "fp32"), scores_of(layout, "bf16")
    assert set(fp32) == set(PERCENT)
    for metric, value in fp32.items():
        assert bf16[metric] == pytest.approx(value, abs=0.5), metric
    if preset == "contrastive":  # the predictor of the other has learned nothing: chance
        assert 1 < fp32["normalized_rank_mean"] < 40
        assert 5 < fp32["recall@10"] < 95
