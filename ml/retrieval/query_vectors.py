"""What a model makes of the chunks of one mix or one stem, as a query needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ml.retrieval.embedding_model import EmbeddingModel, EncodesLabels
from ml.retrieval.metrics import unit_rows
from ml.retrieval.mix_input import MixChunks

_BATCH_CHUNKS = 64


@dataclass(frozen=True, kw_only=True)
class ChunkVectors:
    """What a model made of each chunk."""

    start_s: np.ndarray
    """(chunk,) where each begins."""
    vectors: np.ndarray
    """(chunk, dim) float32, not of unit norm."""

    @property
    def mean(self) -> np.ndarray:
        """(dim,) float32, unit norm: what is searched with, as the corpora's queries are made.

        Raises:
            ValueError: it is zero or not finite.
        """
        return unit_rows(self.vectors.mean(axis=0, dtype=np.float64)[None], "the query")[0]


def takes_condition(model: EmbeddingModel) -> bool:
    """Whether the queries of a model take the vector of a text."""
    return isinstance(model, EncodesLabels) or model.condition_dim is not None


def takes_instrument(model: EmbeddingModel) -> bool:
    """Whether the queries of a model depend on the instrument."""
    if takes_condition(model):
        return True
    predictor = getattr(getattr(model, "config", None), "predictor", None)
    return getattr(predictor, "conditioning", None) == "class"


def query_vectors(
    model: EmbeddingModel, chunks: MixChunks, condition: np.ndarray | None, four_class: int
) -> ChunkVectors:
    """What the chunks of a mix ask for.

    Args:
        model: makes the queries.
        chunks: of the mix.
        condition: (width,) of the instrument; None: the model takes none.
        four_class: index into ``FOUR_CLASSES``, for models of that conditioning.
    """
    device = _device(model)
    row = None if condition is None else torch.from_numpy(condition)[None].to(device)
    classes = torch.tensor([four_class], device=device)

    def vectors_of_batch(mel: Tensor) -> Tensor:
        rows = None if row is None else row.expand(len(mel), -1)
        return model.query_vectors(mel, rows, classes.expand(len(mel)))

    return _vectors(model, chunks, vectors_of_batch, device)


def stem_vectors(model: EmbeddingModel, chunks: MixChunks) -> ChunkVectors:
    """What the gallery would hold of the chunks of a stem."""
    return _vectors(model, chunks, model.gallery_vectors, _device(model))


def _vectors(
    model: EmbeddingModel,
    chunks: MixChunks,
    vectors_of_batch: Callable[[Tensor], Tensor],
    device: torch.device,
) -> ChunkVectors:
    made = []
    for first in range(0, len(chunks.waveforms), _BATCH_CHUNKS):
        batch = torch.from_numpy(chunks.waveforms[first : first + _BATCH_CHUNKS]).to(device)
        with torch.inference_mode():
            made.append(vectors_of_batch(model.log_mel(batch)).float().cpu().numpy())
    return ChunkVectors(start_s=chunks.start_s, vectors=np.concatenate(made))


def _device(model: EmbeddingModel) -> torch.device:
    if isinstance(model, torch.nn.Module):
        tensors = [*model.parameters(), *model.buffers()]
        if tensors:
            return tensors[0].device
    return torch.device("cpu")
