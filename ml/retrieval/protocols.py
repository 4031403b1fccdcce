"""A whole evaluation by one protocol: embeddings where it needs its own, scores, MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import Artifact, DataLayout
from ml.device import Precision
from ml.retrieval.evaluate import Protocol, evaluate_retrieval
from ml.retrieval.score_files import read_artifact_scores
from ml.retrieval.score_tracking import log_scores, tracking_runs

if TYPE_CHECKING:
    from ml.retrieval.embedding_model import EmbeddingModel


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is evaluated, and with what it is computed."""

    conditionings: tuple[str, ...] = ("fine",)
    """What queries ask for, from ``ml.retrieval.conditions.CONDITIONINGS``."""
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
        protocol: see ``ml.retrieval.evaluate``.
        config: what is evaluated.
        tracking_uri: MLflow's store; when it cannot be reached, a warning is all that happens.

    Returns:
        The artifact, and its rows.

    Raises:
        ArtifactError: something that this needs was not made, or is damaged.
        ValueError: no model, or none that the protocol is for; no queries.
    """
    if protocol == "predecessor":
        from ml.retrieval.predecessor import embed_predecessor, models_with_encoder

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
