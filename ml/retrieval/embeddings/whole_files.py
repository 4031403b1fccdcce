"""Whole files through one model, chunk by chunk, to means over time (``predecessor`` protocol)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ml.device import Precision, autocast
from ml.models.stem_jepa import StemJepa
from ml.retrieval.embeddings.model import Conditions, Frontend
from ml.retrieval.embeddings.source import TrackAudio


@dataclass(frozen=True, kw_only=True)
class WholeFileMels:
    """The log-mels of a track, for all models with the same frontend."""

    stems: Tensor
    """(stem, mel_bin, frame)"""
    mixes: Tensor | None
    """(stem, mel_bin, frame): the mix without each stem; None where the track has one stem."""


@torch.inference_mode()
def whole_file_mels(log_mel: Frontend, audio: TrackAudio, device: str = "cpu") -> WholeFileMels:
    """Log-mels of the stems of a track and of the mixes without them, one waveform at a time."""

    def mels(waveforms: Iterable[np.ndarray]) -> Tensor:
        return torch.cat([log_mel(torch.from_numpy(w)[None].to(device)) for w in waveforms])

    count, samples = audio.stems.shape
    mixes = mels(audio.mix_chunk(i, 0, samples) for i in range(count)) if count > 1 else None
    return WholeFileMels(stems=mels(audio.stems), mixes=mixes)


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
        device: str = "cpu",
        batch_chunks: int = 64,
        precision: Precision = "bf16",
    ) -> None:
        self._model = model.to(device).eval()
        self._device = torch.device(device)
        self._precision: Precision = precision
        self._batch_chunks = batch_chunks
        patch = model.config.encoder.patch
        frames = round(model.chunk_s * model.rate_hz) // model.config.log_mel.hop_samples
        self._chunk_frames = max(patch, frames - frames % patch)
        self.conditions = conditions
        self.gallery: list[np.ndarray] = []
        """Of the target encoder; in phase 1 of the encoder."""
        self.encoder_gallery: list[np.ndarray] = []
        """Of the encoder; empty in phase 1."""
        self.queries: dict[str, list[np.ndarray]] = {name: [] for name in conditions}
        """Per conditioning, of the stems in ``query_stems``."""
        self.query_stems: list[int] = []
        """Numbers of the stems that have a query: those in a track with another stem."""

    @property
    def log_mel(self) -> Frontend:
        """The model's frontend."""
        return self._model.log_mel

    @torch.inference_mode()
    def add(self, mels: WholeFileMels, first_stem: int) -> None:
        """Take in a track whose stems are number ``first_stem`` and following of these."""
        encoder, target = self._model.encoder, self._model.target_encoder
        if target is not None:
            self.gallery.append(self._time_means(target, mels.stems))
            self.encoder_gallery.append(self._time_means(encoder, mels.stems))
        else:
            self.gallery.append(self._time_means(encoder, mels.stems))
        if mels.mixes is not None:
            self._add_queries(mels.mixes, first_stem)
            self.query_stems += range(first_stem, first_stem + len(mels.mixes))

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
                patches = self._model.encoder(chunks)
                for name, conditions in self.conditions.items():
                    predicted = self._predict(patches, conditions, rows.cpu().numpy() + first_stem)
                    sums[name].index_add_(0, rows, _time_sums(predicted))
        for name, total in sums.items():
            self.queries[name].append(self._mean(total, mels))

    def _predict(self, patches: Tensor, conditions: Conditions, stems: np.ndarray) -> Tensor:
        """Patches of mixes (batch, freq_patch, time_patch, dim) → of the stems they lack."""
        if self._model.predictor is None:
            return patches
        condition = None
        if self._model.condition_dim is not None and conditions.vectors is not None:
            condition = torch.from_numpy(conditions.vectors[stems]).to(self._device)
        classes = torch.from_numpy(conditions.classes[stems]).to(self._device)
        predicted = self._model.predict_patches(patches, condition, classes)
        return predicted.unflatten(1, patches.shape[1:3])

    def _chunks(self, mels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of ``mels`` (batch,) and a chunk of each (batch, mel_bin, frame)."""
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
        encoder = self._model.config.encoder
        width = encoder.mel_bins // encoder.patch * encoder.dim
        return torch.zeros(len(mels), width, device=self._device)

    def _mean(self, sums: Tensor, mels: Tensor) -> np.ndarray:
        time_patches = -(-mels.shape[-1] // self._model.config.encoder.patch)
        return (sums / time_patches).cpu().numpy()


def _time_sums(patches: Tensor) -> Tensor:
    """(batch, freq_patch, time_patch, dim) → (batch, freq_patch · dim) float32."""
    return patches.float().sum(2).flatten(1)
