"""Phase 2: the joint-embedding predictive architecture (Riou et al., section II-B)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ml.models.losses import conditioned_nce, jepa_loss
from ml.models.stem_jepa import StemJepa
from ml.training.batches import MelBatch
from ml.training.config import TrainingConfig
from ml.training.distributed import gather_rows, global_mean
from ml.training.ema import ExponentialMovingAverage
from ml.training.schedules import linear
from ml.training.watch import embedding_health, in_batch_recall


class JepaPhase(nn.Module):
    """Loss of phase 2: context → encoder → predictor(condition) against target → target encoder."""

    def __init__(self, model: StemJepa, config: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        assert model.target_encoder is not None
        self.ema = ExponentialMovingAverage(model.target_encoder)
        self._seen: Tensor | None = None

    def forward(self, batch: MelBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of a batch."""
        model, objective = self.model, self.config.objective
        assert model.predictor is not None
        context = model.encoder(batch.context).flatten(1, 2)  # (batch, patch, dim)
        prediction = model.predictor(context, batch.condition, batch.classes).float()
        patches = model.target_patches(batch.target)
        if self.training:
            self._seen = patches.detach()
        target = model.normalise_target(patches)
        loss = jepa_loss(prediction, target)
        query, pooled = prediction.mean(1), target.mean(1)  # (batch, dim)
        metrics = {"jepa/patch_loss": loss.detach(), "jepa/right": in_batch_recall(query, pooled)}
        if objective.nce_weight:
            nce = conditioned_nce(
                gather_rows(query),
                gather_rows(pooled),
                objective.nce_temperature,
                gather_rows(batch.tracks),
                gather_rows(batch.label_groups),
            )
            loss = loss + objective.nce_weight * nce
            metrics["jepa/nce_loss"] = nce.detach()
        if not self.training:
            health = embedding_health(gather_rows(query), gather_rows(pooled))
            metrics |= {f"jepa/{name}": value for name, value in health.items()}
        return loss, {"jepa/loss": loss.detach(), **metrics}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Equation 4, then the running mean of target patches."""
        objective, steps = self.config.objective, self.config.steps
        rate = linear(step, steps=steps, start=objective.ema_start, end=objective.ema_end)
        self.ema.update(self.model.encoder, rate)
        assert self._seen is not None
        self.model.update_means(target=global_mean(self._seen.float().mean(0))[None])

    def learned_parts(self) -> dict[str, tuple[nn.Module | nn.Parameter, float]]:
        """What is learned, with the factor on its learning rate."""
        assert self.model.predictor is not None
        rate = self.config.optimizer.encoder_rate
        return {"encoder": (self.model.encoder, rate), "predictor": (self.model.predictor, 1.0)}
