"""Chunks of some tracks through several models: batches across stems, sums per stem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ml.audio.chunks import active_starts
from ml.device import Precision, autocast
from ml.retrieval.conditions import Conditions
from ml.retrieval.embedding_model import EmbeddingModel, condition_rows
from ml.retrieval.mixes import TrackAudio


@dataclass(kw_only=True)
class ModelVectors:
    """What one model made of the chunks so far."""

    chunks: list[np.ndarray] = field(default_factory=list)
    """Batches of (chunk, dim) float32, not of unit norm, in the order of the pass."""
    query_sums: dict[str, np.ndarray]
    """Per conditioning (stem, dim) float64: sum over the chunks of the stem's mix."""


@dataclass(kw_only=True)
class _Batch:
    stems: list[int] = field(default_factory=list)
    waveforms: list[np.ndarray] = field(default_factory=list)


class EmbeddingPass:
    """Chunks in, vectors out, for models with one sample rate and one chunk length.

    Args:
        models: all with the same ``rate_hz`` and ``chunk_s``.
        conditions: per conditioning, for all stems of these tracks.
        device: where the models go.
        batch_chunks: chunks in a batch.
        precision: ``bf16`` computes the encoders in autocast.
    """

    def __init__(
        self,
        models: Sequence[EmbeddingModel],
        conditions: Mapping[str, Conditions],
        *,
        device: torch.device,
        batch_chunks: int = 64,
        precision: Precision = "bf16",
    ):
        for model in models:
            if isinstance(model, nn.Module):
                model.to(device).eval()
        self._models = models
        self._frontends = {m.model_id: m.log_mel.fingerprint() for m in models}
        self._conditions = conditions
        self._condition_rows = {
            m.model_id: {name: condition_rows(m, c) for name, c in conditions.items()}
            for m in models
        }
        self._device = device
        self._precision: Precision = precision
        self._batch_chunks = batch_chunks
        self._gallery, self._mixes = _Batch(), _Batch()
        n_stems = len(next(iter(conditions.values())).texts)
        self.chunk_stems: list[int] = []
        """(chunk,) index of the stem, in the order of ``ModelVectors.chunks``."""
        self.chunk_start_s: list[float] = []
        """(chunk,) where in its stem."""
        self.query_counts = np.zeros(n_stems, dtype=np.int64)
        """(stem,) sounding chunks of the stem's mix; 0: no query."""
        self.vectors = {
            m.model_id: ModelVectors(
                query_sums={name: np.zeros((n_stems, m.dim)) for name in conditions}
            )
            for m in models
        }

    def add(self, audio: TrackAudio, first_stem: int) -> None:
        """Take in a track whose stems are number ``first_stem`` and following of these."""
        rate_hz = audio.rate_hz
        size = round(self._models[0].chunk_s * rate_hz)
        samples = audio.stems.shape[1]
        for i in range(len(audio.stems)):
            stem = first_stem + i
            starts = active_starts(audio.stem_intervals[i], samples, size, rate_hz)
            self.chunk_stems += [stem] * len(starts)
            self.chunk_start_s += [start / rate_hz for start in starts]
            for start in starts:
                self._push(self._gallery, stem, audio.stem_chunk(i, start, size))
            if not starts:
                continue
            starts = active_starts(audio.mix_intervals[i], samples, size, rate_hz)
            self.query_counts[stem] = len(starts)
            for start in starts:
                self._push(self._mixes, stem, audio.mix_chunk(i, start, size))

    def finish(self) -> None:
        """Compute what is still waiting for a full batch."""
        for batch in (self._gallery, self._mixes):
            self._flush(batch)

    def _push(self, batch: _Batch, stem: int, waveform: np.ndarray) -> None:
        if batch.waveforms and len(batch.waveforms[0]) != len(waveform):
            self._flush(batch)
        batch.stems.append(stem)
        batch.waveforms.append(waveform)
        if len(batch.waveforms) == self._batch_chunks:
            self._flush(batch)

    @torch.inference_mode()
    def _flush(self, batch: _Batch) -> None:
        if not batch.waveforms:
            return
        waveforms = torch.from_numpy(np.stack(batch.waveforms)).to(self._device)
        stems = np.array(batch.stems)
        batch.waveforms.clear()
        batch.stems.clear()
        mels: dict[str, Tensor] = {}
        with autocast(self._device, self._precision):
            for model in self._models:
                key = self._frontends[model.model_id]
                if key not in mels:
                    mels[key] = model.log_mel(waveforms)
                if batch is self._gallery:
                    vectors = model.gallery_vectors(mels[key])
                    self.vectors[model.model_id].chunks.append(_numpy(vectors))
                else:
                    self._add_queries(model, mels[key], stems)

    def _add_queries(self, model: EmbeddingModel, mel: Tensor, stems: np.ndarray) -> None:
        sums = self.vectors[model.model_id].query_sums
        vectors = None
        for name, conditions in self._conditions.items():
            rows = self._condition_rows[model.model_id][name]
            if vectors is None or rows is not None or model.phase == "jepa":
                condition = None if rows is None else self._tensor(rows[stems])
                classes = self._tensor(conditions.classes[stems])
                vectors = _numpy(model.query_vectors(mel, condition, classes))
            np.add.at(sums[name], stems, vectors)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)


def _numpy(vectors: Tensor) -> np.ndarray:
    return vectors.float().cpu().numpy()
