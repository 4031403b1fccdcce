"""Phase 1: contrastive pretraining of the encoder (Riou et al., section II-A)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ml.device import Precision, autocast
from ml.models.losses import nt_xent
from ml.models.stem_jepa import StemJepa
from ml.training.batches import MelBatch
from ml.training.config import TrainingConfig
from ml.training.distributed import gather_rows, global_mean
from ml.training.watch import embedding_health, in_batch_recall


class ContrastivePhase(nn.Module):
    """Loss of phase 1 and what it learns besides the encoder: the temperature."""

    def __init__(self, model: StemJepa, config: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.objective = config.objective
        self.precision: Precision = config.precision
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.objective.temperature)))
        self._seen: tuple[Tensor, Tensor] | None = None

    @property
    def temperature(self) -> Tensor:
        """The learned temperature, within the configured bounds."""
        temperature = self.log_temperature.exp()
        if self.objective.is_temperature_kept:  # within them since the last step
            return temperature
        return temperature.clamp(self.objective.temperature_min, self.objective.temperature_max)

    def forward(self, batch: MelBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute loss and metrics of a batch; one encoder for both sides, gradients through both.

        Each rank brings its rows; the loss is that of the global batch on every rank.
        """
        # In bf16 the network alone: cosines near 1 have no differences left there.
        count, further = len(batch.target), batch.negatives
        sides = [batch.context, batch.target, *([] if further is None else [further.flatten(0, 1)])]
        with autocast(batch.context.device, self.precision):
            # (2 batch and negatives, freq_patch, time_patch, dim)
            patches = self.model.encoder(torch.cat(sides))
        patches = patches.float()
        pooled = patches.mean((1, 2))
        context, target = pooled[:count], pooled[count : 2 * count]  # each (batch, dim)
        if self.training:
            self._seen = context.detach(), patches.detach()[count : 2 * count]
        context, target, tracks = (gather_rows(rows) for rows in (context, target, batch.tracks))
        negatives = is_negative = None
        if batch.is_negative is not None:
            negatives = gather_rows(pooled[2 * count :].unflatten(0, batch.is_negative.shape))
            is_negative = gather_rows(batch.is_negative.long()) > 0
        if self.model.config.is_centred:
            if negatives is not None:
                negatives = negatives - target.mean(0)
            context, target = centre(context), centre(target)
        loss = nt_xent(
            context,
            target,
            self.temperature,
            tracks=tracks,
            negatives=negatives,
            is_negative=is_negative,
        )
        health: dict[str, Tensor] = {}
        if not self.training:
            labels = gather_rows(batch.label_ids[:, 0])
            health = embedding_health(context, target, labels, tracks)
        return loss, {
            "contrastive/loss": loss.detach(),
            "contrastive/temperature": self.temperature.detach(),
            "contrastive/right": in_batch_recall(context, target),
            **{f"contrastive/{name}": value for name, value in health.items()},
        }

    @torch.no_grad()
    def after_step(self, step: int) -> None:  # noqa: ARG002 - the phases share this signature
        """Put the temperature back within its bounds, and bring the running means up to date."""
        if self.objective.is_temperature_kept:
            lowest, highest = self.objective.temperature_min, self.objective.temperature_max
            self.log_temperature.clamp_(math.log(lowest), math.log(highest))
        assert self._seen is not None
        context, target = (global_mean(rows.float().mean(0))[None] for rows in self._seen)
        self.model.update_means(context=context, target=target)

    def learned_parts(self) -> dict[str, tuple[nn.Module | nn.Parameter, float]]:
        """Name what is learned, with the factor on its learning rate."""
        return {"encoder": (self.model.encoder, 1.0), "temperature": (self.log_temperature, 1.0)}


def centre(rows: Tensor) -> Tensor:
    """Subtract from rows their mean over the batch.

    Differs: the pooled embeddings of all audio share one large vector; without centring the loss
    stays at chance for hundreds of steps.
    """
    return rows - rows.mean(0, keepdim=True)
