"""From a batch of int16 chunks to log-mels, on the device: gains, mixing of the context, mel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ml.audio.mel import LogMel
from ml.shards.pairs import PairBatch
from ml.training.distributed import rank, world

FULL_SCALE = 32768.0


@dataclass(frozen=True, kw_only=True)
class MelBatch:
    """A batch as the phases see it."""

    context: Tensor
    """(batch, mel_bin, frame): the mix of the context stems."""
    target: Tensor
    """(batch, mel_bin, frame)."""
    condition: Tensor
    """(batch, condition_dim): embedding of the drawn label of the target."""
    classes: Tensor
    """(batch,): the target's index into ``FOUR_CLASSES``."""
    tracks: Tensor
    """(batch,): equal for pairs of one track."""
    label_groups: Tensor
    """(batch,): equal for targets with the same finest label."""


def waveforms(
    batch: PairBatch, device: torch.device, *, gain_db: float = 0.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Context mix and target of a batch as float waveforms, with stored gains undone.

    Args:
        batch: int16 chunks and gains.
        device: where the result goes; mixing happens there.
        gain_db: each side is scaled by an independent uniform gain of ± this.
        seed: of the random gains, drawn for the global batch.

    Returns:
        context, target: (batch, samples) float32; sums are not clipped.
    """
    context = batch.context.to(device, non_blocking=True)  # (batch, context_stem, samples)
    gain = batch.context_gain.to(device, non_blocking=True) / FULL_SCALE
    mix = torch.einsum("bns,bn->bs", context.float(), gain)
    target = batch.target.to(device, non_blocking=True).float()
    target = target * (batch.target_gain.to(device) / FULL_SCALE)[:, None]
    if gain_db:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.rand(2, world() * len(mix), 1, generator=generator)[:, rank() :: world()]
        factors = (10 ** ((drawn * 2 - 1) * gain_db / 20)).to(device)
        mix, target = mix * factors[0], target * factors[1]
    return mix, target


def mel_batch(
    batch: PairBatch, log_mel: LogMel, device: torch.device, *, gain_db: float, seed: int
) -> MelBatch:
    """The batch's log-mels and what conditions them, on the device."""
    mix, target = waveforms(batch, device, gain_db=gain_db, seed=seed)
    mels = log_mel(torch.cat([mix, target]))
    context_mel, target_mel = mels.chunk(2)
    return MelBatch(
        context=context_mel,
        target=target_mel,
        condition=batch.condition.to(device),
        classes=batch.four_class.to(device),
        tracks=batch.track.to(device),
        label_groups=batch.label_group.to(device),
    )
