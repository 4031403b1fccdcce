"""Chunks in, one vector a chunk out: in batches, for several models at once.

A pass takes chunks of stems (for a gallery) and of mixes (for queries), across stems; a
log-mel is computed once for all models with the same frontend. What becomes of the rows is up to
who asks: embeddings keep a vector of each stem (``ChunkRows.stem_vectors``), alignment ranks the
rows one by one, a person's query (``ml.retrieval.queries.mix``) has one mix only.
``WholeFilePass`` takes whole files through one model, chunk by chunk, to means over time (the
``predecessor`` protocol).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ml.device import Precision, autocast
from ml.models.stem_jepa import StemJepa, weighted_parts, without_instrument
from ml.progress import progress
from ml.retrieval.embeddings.files import unit_rows
from ml.retrieval.embeddings.model import (
    Conditions,
    EmbeddingModel,
    Frontend,
    condition_rows,
    conditions_of,
)
from ml.retrieval.embeddings.source import Chunk, EmbeddingSource, TrackAudio, read_tracks
from ml.tracks import MUSIC

Model = TypeVar("Model", bound=EmbeddingModel)


@torch.inference_mode()
def whole_file_mels(
    log_mel: Frontend, audio: TrackAudio, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Compute the log-mels of a track, one waveform at a time.

    Returns:
        (stem, mel_bin, frame) of the stems, and of the mixes that lack each; None where the track
        has one stem.
    """

    def mels(waveforms: Iterable[np.ndarray]) -> Tensor:
        return torch.cat([log_mel(torch.from_numpy(w)[None].to(device)) for w in waveforms])

    count, samples = audio.stems.shape
    mixes = mels(audio.mix_chunk(i, 0, samples) for i in range(count)) if count > 1 else None
    return mels(audio.stems), mixes


class WholeFilePass:
    """Tracks in, one vector a stem and query out.

    Vectors are means over time of the patches of all chunks with the frequency rows side by side,
    in batches of one track: (stem, freq_patch · dim) float32, not normalised.

    Args:
        model: phase 1 or phase 2.
        conditions: per conditioning, for all stems of these tracks.
        device: where the model goes.
        batch_chunks: chunks in a batch.
        precision: ``bf16`` computes encoders and predictor in autocast.
    """

    def __init__(
        self,
        model: StemJepa,
        conditions: Mapping[str, Conditions],
        *,
        device: torch.device,
        batch_chunks: int = 64,
        precision: Precision = "bf16",
    ) -> None:
        self.model = model.to(device).eval()
        self._device = device
        self._precision: Precision = precision
        self._batch_chunks = batch_chunks
        patch = model.config.encoder.patch
        frames = round(model.chunk_s * model.rate_hz) // model.config.log_mel.hop_samples
        self._chunk_frames = max(patch, frames - frames % patch)
        self.conditions = conditions
        self._condition_rows = {name: condition_rows(model, c) for name, c in conditions.items()}
        self.gallery: list[np.ndarray] = []
        """Of the target encoder; in phase 1 of the encoder."""
        self.encoder_gallery: list[np.ndarray] = []
        """Of the encoder; empty in phase 1."""
        self.queries: dict[str, list[np.ndarray]] = {name: [] for name in conditions}
        """Per conditioning, of the stems in ``query_stems``."""
        self.query_stems: list[int] = []
        """Numbers of the stems that have a query: those in a track with another stem."""

    @torch.inference_mode()
    def add(self, stems: Tensor, mixes: Tensor | None, first_stem: int) -> None:
        """Take in a track whose stems are number ``first_stem`` and following of these."""
        encoder, target = self.model.encoder, self.model.target_encoder
        if target is not None:
            self.gallery.append(self._time_means(target, stems))
            self.encoder_gallery.append(self._time_means(encoder, stems))
        else:
            self.gallery.append(self._time_means(encoder, stems))
        if mixes is not None:
            self._add_queries(mixes, first_stem)
            self.query_stems += range(first_stem, first_stem + len(mixes))

    def _time_means(self, encoder: nn.Module, mels: Tensor) -> np.ndarray:
        sums = self._zeros(mels)
        for rows, chunks in self._chunks(mels):
            with autocast(self._device, self._precision):
                patches = encoder(chunks)
            sums.index_add_(0, rows, _time_sums(patches))
        return self._mean(sums, mels)

    def _add_queries(self, mels: Tensor, first_stem: int) -> None:
        sums = {name: self._zeros(mels) for name in self.conditions}
        for rows, chunks in self._chunks(mels):
            with autocast(self._device, self._precision):
                patches = self.model.encoder(chunks)
                for name in self.conditions:
                    predicted = self._predict(patches, name, rows.cpu().numpy() + first_stem)
                    sums[name].index_add_(0, rows, _time_sums(predicted))
        for name, total in sums.items():
            self.queries[name].append(self._mean(total, mels))

    def _predict(self, patches: Tensor, conditioning: str, stems: np.ndarray) -> Tensor:
        """Predict from patches of mixes, (batch, freq_patch, time_patch, dim), those of stems."""
        if self.model.predictor is None:
            return patches
        given = self._condition_rows[conditioning]
        condition = None if given is None else torch.from_numpy(given[stems]).to(self._device)
        classes = torch.from_numpy(self.conditions[conditioning].classes[stems]).to(self._device)
        predicted = self.model.predict_patches(patches, condition, classes)
        return predicted.unflatten(1, patches.shape[1:3])

    def _chunks(self, mels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows of ``mels`` (batch,) and a chunk of each (batch, mel_bin, frame)."""
        size, batch = self._chunk_frames, self._batch_chunks
        rows = torch.arange(len(mels), device=self._device)
        count, rest = divmod(mels.shape[-1], size)
        if count:
            chunks = mels[..., : count * size].unflatten(-1, (count, size))
            chunks = chunks.transpose(1, 2).flatten(0, 1)  # (stem · chunk, mel_bin, frame)
            repeated = rows.repeat_interleave(count)
            yield from zip(repeated.split(batch), chunks.split(batch), strict=True)
        if rest:  # the encoder pads it with 0 to a multiple of the patch
            last = mels[..., count * size :]
            yield from zip(rows.split(batch), last.split(batch), strict=True)

    def _zeros(self, mels: Tensor) -> Tensor:
        encoder = self.model.config.encoder
        width = encoder.mel_bins // encoder.patch * encoder.dim
        return torch.zeros(len(mels), width, device=self._device)

    def _mean(self, sums: Tensor, mels: Tensor) -> np.ndarray:
        time_patches = -(-mels.shape[-1] // self.model.config.encoder.patch)
        return (sums / time_patches).cpu().numpy()


def _time_sums(patches: Tensor) -> Tensor:
    """Sum over time: (batch, freq_patch, time_patch, dim) → (batch, freq_patch · dim) float32."""
    return patches.float().sum(2).flatten(1)


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
        self._asks_for_any = {
            name: np.array([text == MUSIC for text in c.texts])
            for name, c in self._conditions.items()
        }
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
            made[name] = model.query_vectors(mel, condition, classes)
            if len(model.part_shares) > 1:
                asks_for_any = self._tensor(self._asks_for_any[name][stems])[:, None]
                song = without_instrument(made[name], model.part_shares)
                made[name] = torch.where(asks_for_any, song, made[name])
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
