"""From a batch of chunks to log-mels, on the device: other words, noise, gain and EQ, mel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ml.audio.mel import LogMel
from ml.shards.pairs import PairBatch
from ml.training.config import ObjectiveConfig
from ml.training.distributed import rank, world

FULL_SCALE = 32768.0
Wordings = Mapping[str, Tensor]
"""Label → other words for it (``ml.labels.wordings``) as vectors, (wording, condition_dim)."""
EQ_KNOTS = 6
"""Points of a random equaliser, evenly over the mel scale; linear in dB between them."""
_CONDITIONS = 1 << 40
"""Tells what is drawn for conditions from what is for gains, with the same seeds."""


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
    asked: Tensor
    """(batch,): id of the drawn label."""
    label_ids: Tensor
    """(batch, level): ids of the target's labels, the finest first."""
    negatives: Tensor | None = None
    """(batch, negative, mel_bin, frame): what the query should not find; None unless
    ``PairConfig.negatives``."""
    is_negative: Tensor | None = None
    """(batch, negative) bool; False: none at this place, only silence."""


def waveforms(batch: PairBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Take the context of a batch and its target as float waveforms with gains undone.

    Args:
        batch: mixes, int16 chunks and gains.
        device: where the result goes.

    Returns:
        context, target: (batch, samples) float32; sums are not clipped.
    """
    batch = batch.to(device, non_blocking=True)
    target = batch.target.float() * (batch.target_gain / FULL_SCALE)[:, None]
    return batch.context, target


def vary_conditions(
    batch: PairBatch, objective: ObjectiveConfig, known: Wordings, seed: int
) -> PairBatch:
    """Ask in other words for the drawn labels, then add noise; nothing else of the batch changes.

    Differs: the paper conditions with the vectors of the labels alone. A corpus has a few dozen, so
    most of what people may type lies where training never was.

    Args:
        batch: conditioned with the labels' own vectors.
        objective: ``wording_share`` and ``condition_noise``.
        known: a label that is not among them keeps its own vector.
        seed: of what is drawn, for the global batch.
    """
    if not objective.wording_share and not objective.condition_noise:
        return batch
    condition = batch.condition.clone()
    generator = torch.Generator().manual_seed(seed + _CONDITIONS)
    drawn = _drawn(1, len(batch), 2 + condition.shape[1], generator)[0]
    for row, label in enumerate(batch.labels):
        if label in known and drawn[row, 0] < objective.wording_share:
            condition[row] = known[label][int(drawn[row, 1] * len(known[label]))]
    condition += objective.condition_noise * F.normalize(drawn[:, 2:] - 0.5, dim=1)
    return replace(batch, condition=condition)


def mel_batch(
    batch: PairBatch,
    log_mel: LogMel,
    device: torch.device,
    *,
    gain_db: float = 0.0,
    eq_db: float = 0.0,
    seed: int = 0,
) -> MelBatch:
    """Compute the batch's log-mels and what conditions them, on the device.

    Args:
        batch: mixes, int16 chunks and gains.
        log_mel: the frontend.
        device: where everything goes.
        gain_db: each side is scaled by an independent uniform gain of ± this.
        eq_db: and coloured by an independent random equaliser within ± this.
        seed: of the random gains and equalisers, which are drawn for the global batch.
    """
    batch = batch.to(device, non_blocking=True)
    sides = [*waveforms(batch, device), *_negatives(batch)]  # each (batch, samples)
    generator = torch.Generator().manual_seed(seed)
    if gain_db:
        drawn = _drawn(len(sides), len(batch), 1, generator)
        factors = (10 ** ((drawn * 2 - 1) * gain_db / 20)).to(device)
        sides = [side * factor for side, factor in zip(sides, factors, strict=True)]
    power_gain = None
    if eq_db:
        drawn = _drawn(len(sides), len(batch), EQ_KNOTS, generator)
        knots = ((drawn * 2 - 1) * eq_db).flatten(0, 1)  # (side · batch, knot)
        power_gain = equaliser(knots, log_mel.config.mel_bins).to(device)
    mels = log_mel(torch.cat(sides), power_gain).chunk(len(sides))
    gains = batch.negative_gain
    return MelBatch(
        context=mels[0],
        target=mels[1],
        condition=batch.condition,
        classes=batch.four_class,
        tracks=batch.track,
        asked=batch.asked,
        label_ids=batch.label_ids,
        negatives=None if gains is None else torch.stack(mels[2:], dim=1),
        is_negative=None if gains is None else gains > 0,
    )


def equaliser(knots_db: Tensor, mel_bins: int) -> Tensor:
    """Interpolate the factors on the mel power by which an equaliser acts.

    Args:
        knots_db: (batch, knot), its gain in dB at points evenly over the mel scale, ends included.
        mel_bins: how many bins.

    Returns:
        (batch, mel_bin) > 0.
    """
    curve_db = F.interpolate(knots_db[:, None], size=mel_bins, mode="linear", align_corners=True)
    return 10 ** (curve_db[:, 0] / 10)


def _negatives(batch: PairBatch) -> list[Tensor]:
    """Make one (batch, samples) float32 for each place of a negative."""
    if batch.negatives is None or batch.negative_gain is None:
        return []
    gain = batch.negative_gain / FULL_SCALE
    return list((batch.negatives.float() * gain[..., None]).unbind(1))


def _drawn(sides: int, rows: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw this rank's rows of the global batch: (side, row, width), uniform in [0, 1)."""
    return torch.rand(sides, world() * rows, width, generator=generator)[:, rank() :: world()]
