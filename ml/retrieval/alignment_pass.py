"""Query vectors chunk by chunk: one pass over the mixes of a corpus.

``ml.retrieval.embed`` keeps only their sums per query. Mixes, chunks and the rule of what sounds
are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ml.audio.chunks import active_starts
from ml.device import Precision, autocast
from ml.progress import progress
from ml.retrieval.conditions import Conditions, conditions_of
from ml.retrieval.embedding_model import EmbeddingModel
from ml.retrieval.embedding_source import EmbeddingSource
from ml.retrieval.mixes import TrackAudio, read_tracks


@dataclass(frozen=True, kw_only=True)
class QueryChunks:
    """What one model predicts for each chunk of each query."""

    stem_ids: np.ndarray
    """(chunk,) the stem looked for."""
    start_s: np.ndarray
    """(chunk,) where in the track."""
    vectors: np.ndarray
    """(chunk, dim) float32, not of unit norm."""


def query_chunks(
    source: EmbeddingSource,
    models: Sequence[EmbeddingModel],
    label_vectors: Mapping[str, np.ndarray],
    conditioning: str,
    *,
    device: str = "cpu",
    batch_chunks: int = 64,
    precision: Precision = "bf16",
) -> dict[str, QueryChunks]:
    """Query chunks of all tracks by each model.

    Args:
        source: the tracks.
        models: their audio is decoded once for all with one sample rate and chunk length.
        label_vectors: (condition_dim,) per text; may be empty when no model takes conditions.
        conditioning: what queries are conditioned with.
        device: where to compute.
        batch_chunks: chunks in a batch.
        precision: ``bf16`` computes the encoders in autocast.

    Returns:
        By model_id.

    Raises:
        AudioError: an audio file has gone.
        ValueError: an unknown conditioning, or a label without a vector.
    """
    stems = [stem for track in source.tracks for stem in track.stems]
    conditions = conditions_of(stems, conditioning, label_vectors)
    found: dict[str, QueryChunks] = {}
    for shape in dict.fromkeys((model.rate_hz, model.chunk_s) for model in models):
        group = [model for model in models if (model.rate_hz, model.chunk_s) == shape]
        run = _Pass(group, conditions, torch.device(device), batch_chunks, precision)
        audios = read_tracks(source.tracks, group[0].rate_hz)
        for audio in progress(audios, total=len(source.tracks), label=f"mixes of {source.corpus}"):
            run.add(audio)
        found |= run.result()
    return found


class _Pass:
    """Chunks of the mixes of one track after another through a group of models."""

    def __init__(
        self,
        models: Sequence[EmbeddingModel],
        conditions: Conditions,
        device: torch.device,
        batch_chunks: int,
        precision: Precision,
    ):
        for model in models:
            if isinstance(model, nn.Module):
                model.to(device).eval()
        self._models, self._conditions = models, conditions
        self._device, self._batch_chunks = device, batch_chunks
        self._precision: Precision = precision
        self._stems_done = 0
        self._stem_ids: list[str] = []
        self._start_s: list[float] = []
        self._vectors: dict[str, list[np.ndarray]] = {m.model_id: [] for m in models}

    def add(self, audio: TrackAudio) -> None:
        """Take in a track."""
        chunks = list(self._chunks(audio))
        size = round(self._models[0].chunk_s * audio.rate_hz)
        for first in range(0, len(chunks), self._batch_chunks):
            batch = chunks[first : first + self._batch_chunks]
            mixes = np.stack([audio.mix_chunk(stem, start, size) for stem, start in batch])
            stems = np.array([stem for stem, _ in batch]) + self._stems_done
            self._embed(torch.from_numpy(mixes).to(self._device), stems)
        self._stem_ids += [audio.track.stems[stem].stem_id for stem, _ in chunks]
        self._start_s += [start / audio.rate_hz for _, start in chunks]
        self._stems_done += len(audio.stems)

    def result(self) -> dict[str, QueryChunks]:
        """What was found, by model_id."""
        return {
            model.model_id: QueryChunks(
                stem_ids=np.array(self._stem_ids, dtype=object),
                start_s=np.array(self._start_s),
                vectors=np.concatenate(
                    [np.zeros((0, model.dim), np.float32), *self._vectors[model.model_id]]
                ),
            )
            for model in self._models
        }

    def _chunks(self, audio: TrackAudio) -> Iterator[tuple[int, int]]:
        """Stem and first sample of the sounding chunks of the mix without it."""
        size, samples = round(self._models[0].chunk_s * audio.rate_hz), audio.stems.shape[1]
        for stem, intervals in enumerate(audio.mix_intervals):
            for start in active_starts(intervals, samples, size, audio.rate_hz):
                yield stem, start

    @torch.inference_mode()
    def _embed(self, mixes: Tensor, stems: np.ndarray) -> None:
        mels: dict[str, Tensor] = {}
        vectors = self._conditions.vectors
        classes = torch.from_numpy(self._conditions.classes[stems]).to(self._device)
        with autocast(self._device, self._precision):
            for model in self._models:
                key = model.log_mel.fingerprint()
                if key not in mels:
                    mels[key] = model.log_mel(mixes)
                condition = None
                if vectors is not None and model.condition_dim is not None:
                    condition = torch.from_numpy(vectors[stems]).to(self._device)
                asked = model.query_vectors(mels[key], condition, classes)
                self._vectors[model.model_id].append(asked.float().cpu().numpy())
