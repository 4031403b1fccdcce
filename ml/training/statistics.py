"""What is measured on training audio before phase 1: the log-mel's floor, mean and deviation.

Differs: the paper's frontend has fixed numbers (``LogMelConfig``). Phase 2 takes over the numbers
of its phase 1.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ml.audio.mel import spectrum_vectors
from ml.models.stem_jepa import StemJepa
from ml.shards.pairs import PairBatch
from ml.training.batches import waveforms

BATCHES = 8
"""Training batches that are looked at."""
FLOOR_QUANTILE = 0.05
"""The floor is this quantile of the mel power of training audio."""


@torch.no_grad()
def measure_statistics(model: StemJepa, batches: Iterable[PairBatch]) -> None:
    """Set the frontend's buffers, the running means and ``spectrum_mean`` from training batches.

    The floor, mean and deviation change only when the frontend's configuration says
    ``is_measured``. Running means start from the initial encoder, so that step 0 is a fair
    *untrained* baseline; training forgets them.

    Args:
        model: freshly initialised; changed in place.
        batches: some training batches, mixed without random gains.
    """
    log_mel = model.log_mel
    device = log_mel.floor.device
    sides = [waveforms(batch, device) for batch in batches]
    powers = [log_mel.mel_power(side) for pair in sides for side in pair]
    if log_mel.config.is_measured:
        sample = torch.cat([p.flatten()[:: max(1, p.numel() // 500_000)] for p in powers])
        log_mel.floor.copy_(torch.quantile(sample[:8_000_000].double(), FLOOR_QUANTILE))
        log_mel.floor.clamp_(min=1e-10)
        rows = torch.cat(
            [torch.log(p + log_mel.floor).transpose(1, 2).flatten(0, 1) for p in powers]
        )
        log_mel.mean.copy_(rows.mean(0))
        log_mel.deviation.copy_(rows.std(0).clamp(min=1e-3))
    spectra = []
    for mix, target in sides:
        mels = log_mel(mix), log_mel(target)
        context, target_patches = (model.encoder(mel) for mel in mels)
        model.update_means(context=context.mean((1, 2)), target=target_patches)
        spectra.append(spectrum_vectors(mels[1]))
    model.spectrum_mean.copy_(torch.cat(spectra).mean(0))


@torch.no_grad()
def measure_target_variance(model: StemJepa, batches: Iterable[PairBatch]) -> None:
    """Set ``target_variance`` about the ``target_mean`` that the model has.

    Args:
        model: of phase 2 at its start; changed in place.
        batches: some training batches.
    """
    device = model.target_mean.device
    targets = (model.log_mel(waveforms(batch, device)[1]) for batch in batches)
    spreads = [model.target_spread(model.target_patches(mel)) for mel in targets]
    model.target_variance.copy_(torch.stack(spreads).mean(0))
