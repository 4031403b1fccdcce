"""Chunks in, one vector a chunk out: in batches, for several models at once.

A pass takes chunks of stems (for a gallery) and of mixes (for queries), across stems; a
log-mel is computed once for all models with the same frontend. What becomes of the rows is up to
who asks: embeddings keep a vector of each stem (``ChunkRows.stem_vectors``), alignment ranks the
rows one by one, a person's query (``ml.retrieval.queries.mix``) has one mix only. Whole files,
which the ``predecessor`` protocol embeds, are ``ml.retrieval.embeddings.whole_files``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ml.device import Precision, autocast
from ml.models.stem_jepa import weighted_parts, without_instrument
from ml.progress import progress
from ml.retrieval.embeddings.files import unit_rows
from ml.retrieval.embeddings.model import Conditions, EmbeddingModel, condition_rows, conditions_of
from ml.retrieval.embeddings.source import Chunk, EmbeddingSource, read_tracks
from ml.tracks import MUSIC

Model = TypeVar("Model", bound=EmbeddingModel)


@dataclass(frozen=True, kw_only=True)
class ChunkRows:
    """One vector a chunk by one model, in the order of the pass."""

    stems: np.ndarray
    """(chunk,) int64: number of the stem; of a mix, of the stem that it lacks."""
    start_s: np.ndarray
    """(chunk,) where the chunk begins in its track."""
    vectors: np.ndarray
    """(chunk, dim) float32, not of unit norm."""
    part_shares: Sequence[float]
    """Of the model."""

    def stem_vectors(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Average the chunks of each stem.

        Args:
            name: of the rows, for errors.

        Returns:
            The stems that have chunks, ascending, and (stem, dim) float32 of unit norm.

        Raises:
            ValueError: a mean is zero or not finite.
        """
        stems, place = np.unique(self.stems, return_inverse=True)
        sums = np.zeros((len(stems), self.vectors.shape[1]))
        np.add.at(sums, place, self.vectors)
        means = sums / np.bincount(place)[:, None]
        if len(self.part_shares) > 1:
            means = weighted_parts(torch.from_numpy(means), self.part_shares).numpy()
        return stems, unit_rows(means, name)


@dataclass(kw_only=True)
class _Queue:
    """Chunks of one kind: waveforms that wait for a full batch, vectors of those before."""

    stems: list[int] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)
    waveforms: list[np.ndarray] = field(default_factory=list)
    vectors: defaultdict[tuple[str, str], list[np.ndarray]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Per model_id and conditioning (``""`` for a gallery), batches of (chunk, dim) float32."""


class EmbeddingPass:
    """Chunks in, vectors out, for models with one sample rate and one chunk length.

    Args:
        models: all with the same ``rate_hz`` and ``chunk_s``.
        conditions: per conditioning, of the stems that mixes lack; none where no mix is taken in.
        device: where the models go; None: they stay where the first one is.
        batch_chunks: chunks in a batch.
        precision: ``bf16`` computes the encoders in autocast.
    """

    def __init__(
        self,
        models: Sequence[EmbeddingModel],
        conditions: Mapping[str, Conditions] | None = None,
        *,
        device: torch.device | None = None,
        batch_chunks: int = 64,
        precision: Precision = "bf16",
    ):
        self._models, self._conditions = models, conditions or {}
        self._device = _device_of(models[0]) if device is None else device
        self._batch_chunks = batch_chunks
        self._precision: Precision = precision
        if device is not None:
            for model in models:
                if isinstance(model, nn.Module):
                    model.to(device).eval()
        self._frontends = {m.model_id: m.log_mel.fingerprint() for m in models}
        self._condition_rows = {
            (m.model_id, name): condition_rows(m, c)
            for m in models
            for name, c in self._conditions.items()
        }
        self._gallery, self._queries = _Queue(), _Queue()

    def add_stem(self, stem: int, chunks: Iterable[Chunk]) -> None:
        """Take in the sounding chunks of a stem."""
        self._add(self._gallery, stem, chunks)

    def add_mix(self, stem: int, chunks: Iterable[Chunk]) -> None:
        """Take in the sounding chunks of the mix that lacks a stem."""
        self._add(self._queries, stem, chunks)

    def finish(self) -> None:
        """Compute what is still waiting for a full batch."""
        for queue in (self._gallery, self._queries):
            self._flush(queue)

    def gallery(self, model: EmbeddingModel) -> ChunkRows:
        """Return what a model made of the chunks of stems."""
        return self._rows(self._gallery, model, "")

    def queries(self, model: EmbeddingModel, conditioning: str) -> ChunkRows:
        """Return what a model predicts from the chunks of mixes."""
        return self._rows(self._queries, model, conditioning)

    def _rows(self, queue: _Queue, model: EmbeddingModel, conditioning: str) -> ChunkRows:
        batches = queue.vectors[model.model_id, conditioning]
        return ChunkRows(
            stems=np.array(queue.stems, dtype=np.int64),
            start_s=np.array(queue.start_s, dtype=np.float64),
            vectors=np.concatenate([np.zeros((0, model.dim), np.float32), *batches]),
            part_shares=model.part_shares,
        )

    def _add(self, queue: _Queue, stem: int, chunks: Iterable[Chunk]) -> None:
        for start_s, waveform in chunks:
            if queue.waveforms and len(queue.waveforms[0]) != len(waveform):
                self._flush(queue)
            queue.stems.append(stem)
            queue.start_s.append(start_s)
            queue.waveforms.append(waveform)
            if len(queue.waveforms) == self._batch_chunks:
                self._flush(queue)

    @torch.inference_mode()
    def _flush(self, queue: _Queue) -> None:
        if not queue.waveforms:
            return
        waveforms = self._tensor(np.stack(queue.waveforms))
        stems = np.array(queue.stems[-len(waveforms) :])
        queue.waveforms.clear()
        mels: dict[str, Tensor] = {}
        with autocast(self._device, self._precision):
            for model in self._models:
                key = self._frontends[model.model_id]
                if key not in mels:
                    mels[key] = model.log_mel(waveforms)
                if queue is self._gallery:
                    made = {"": model.gallery_vectors(mels[key])}
                else:
                    made = self._query_vectors(model, mels[key], stems)
                for name, vectors in made.items():
                    queue.vectors[model.model_id, name].append(vectors.float().cpu().numpy())

    def _query_vectors(
        self, model: EmbeddingModel, mel: Tensor, stems: np.ndarray
    ) -> dict[str, Tensor]:
        """Predict the stems that mixes lack: (batch, dim) per conditioning."""
        made: dict[str, Tensor] = {}
        for name, conditions in self._conditions.items():
            rows = self._condition_rows[model.model_id, name]
            if made and rows is None and model.phase != "jepa":  # it asks the same for any label
                made[name] = next(iter(made.values()))
                continue
            condition = None if rows is None else self._tensor(rows[stems])
            classes = self._tensor(conditions.classes[stems])
            vectors = model.query_vectors(mel, condition, classes)
            asks_for_any = self._tensor(np.array([conditions.texts[i] == MUSIC for i in stems]))
            song = without_instrument(vectors, model.part_shares)
            made[name] = torch.where(asks_for_any[:, None], song, vectors)
        return made

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)


def models_by_shape(models: Sequence[Model]) -> list[list[Model]]:
    """Group the models that can share a pass: the same sample rate and chunk length."""
    groups: dict[tuple[int, float], list[Model]] = {}
    for model in models:
        groups.setdefault((model.rate_hz, model.chunk_s), []).append(model)
    return list(groups.values())


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
    """Predict the queries of all tracks chunk by chunk; embeddings keep only their means.

    Args:
        source: the tracks.
        models: their audio is decoded once for all with one sample rate and chunk length.
        label_vectors: (condition_dim,) per text; may be empty when no model takes conditions.
        conditioning: what queries are conditioned with.
        device: where to compute.
        batch_chunks: chunks in a batch; batches end where a track ends.
        precision: ``bf16`` computes the encoders in autocast.

    Returns:
        By model_id.

    Raises:
        AudioError: an audio file has gone.
        ValueError: an unknown conditioning, or a label without a vector.
    """
    stems = [stem for track in source.tracks for stem in track.stems]
    stem_ids = np.array([stem.stem_id for stem in stems], dtype=object)
    conditions = {conditioning: conditions_of(stems, conditioning, label_vectors)}
    predicted: dict[str, QueryChunks] = {}
    for group in models_by_shape(models):
        run = EmbeddingPass(
            group,
            conditions,
            device=torch.device(device),
            batch_chunks=batch_chunks,
            precision=precision,
        )
        audios, stem = read_tracks(source.tracks, group[0].rate_hz), 0
        for audio in progress(audios, total=len(source.tracks), label=f"mixes of {source.corpus}"):
            for i in range(len(audio.stems)):
                run.add_mix(stem + i, audio.mix_chunks(i, group[0].chunk_s))
            run.finish()
            stem += len(audio.stems)
        for model in group:
            rows = run.queries(model, conditioning)
            predicted[model.model_id] = QueryChunks(
                stem_ids=stem_ids[rows.stems], start_s=rows.start_s, vectors=rows.vectors
            )
    return predicted


def _device_of(model: EmbeddingModel) -> torch.device:
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    return tensors[0].device if tensors else torch.device("cpu")
