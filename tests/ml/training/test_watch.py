"""Health figures on cases worked by hand."""

import logging

import pytest
import torch

from ml.training.watch import embedding_health, warn_of_collapse


def test_orthogonal_pairs_are_perfectly_healthy():
    rows, labels, tracks = torch.eye(4), torch.zeros(4), torch.arange(4)
    found = {
        name: float(value) for name, value in embedding_health(rows, rows, labels, tracks).items()
    }
    assert found["within_label_rank"] == 0.0
    assert found["normalized_rank"] == 25.0  # rank 1 of 4
    assert found["cosine"] == pytest.approx(0.0)
    assert found["effective_rank"] == pytest.approx(4.0)


def test_one_direction_is_a_collapse_and_says_so(caplog):
    rows, labels = torch.ones(4, 8), torch.arange(4)
    health = embedding_health(rows, rows, labels, labels)
    found = {f"jepa/valid_{name}": float(value) for name, value in health.items()}
    assert found["jepa/valid_within_label_rank"] == 50.0  # no label occurs twice
    assert found["jepa/valid_normalized_rank"] == 100.0  # ties count against the query
    assert found["jepa/valid_cosine"] == pytest.approx(1.0)
    assert found["jepa/valid_effective_rank"] == pytest.approx(1.0, abs=1e-3)
    with caplog.at_level(logging.WARNING):
        warn_of_collapse(found, step=7)
    assert "step 7: embeddings collapse" in caplog.text


def test_a_rank_is_the_number_of_targets_at_least_as_near():
    target = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    query = torch.tensor([[0.8, 0.6], [0.8, 0.6], [0.8, 0.6]])
    # Scores 0.8, 1.0, 0.6: ranks 2, 1, 3.
    labels, tracks = torch.tensor([5, 7, 5]), torch.tensor([0, 0, 1])
    found = embedding_health(query, target, labels, tracks)
    assert float(found["normalized_rank"]) == pytest.approx(200 / 3)
    # Of the two targets with label 5 the first is ahead of the third, for both queries.
    assert float(found["within_label_rank"]) == pytest.approx(50.0)


def test_healthy_embeddings_are_not_warned_of(caplog):
    warn_of_collapse({"jepa/valid_cosine": 0.1, "jepa/valid_effective_rank": 30.0}, step=1)
    assert not caplog.text
