"""Whole files through one model, chunk by chunk, to means over time (``predecessor`` protocol)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ml.device import Precision, autocast
from ml.models.stem_jepa import StemJepa
from ml.retrieval.embeddings.model import Conditions, Frontend, condition_rows
from ml.retrieval.embeddings.source import TrackAudio


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
