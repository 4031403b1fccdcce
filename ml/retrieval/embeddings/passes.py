"""Chunks of some tracks through several models: batches across stems, sums per stem.

[alignment_pass] Query vectors chunk by chunk: one pass over the mixes of a corpus.

``ml.retrieval.embeddings.build`` keeps only their sums per query. Mixes, chunks and the rule of
what sounds
are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ml.audio.chunks import active_starts
from ml.device import Precision, autocast
from ml.progress import progress
from ml.retrieval.embeddings.model import Conditions, EmbeddingModel, condition_rows, conditions_of
from ml.retrieval.embeddings.source import EmbeddingSource, TrackAudio, read_tracks


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
        self._models, self._classes = models, conditions.classes
        self._condition_rows = {m.model_id: condition_rows(m, conditions) for m in models}
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
        classes = torch.from_numpy(self._classes[stems]).to(self._device)
        with autocast(self._device, self._precision):
            for model in self._models:
                key = model.log_mel.fingerprint()
                if key not in mels:
                    mels[key] = model.log_mel(mixes)
                rows = self._condition_rows[model.model_id]
                condition = None if rows is None else torch.from_numpy(rows[stems]).to(self._device)
                asked = model.query_vectors(mels[key], condition, classes)
                self._vectors[model.model_id].append(asked.float().cpu().numpy())
