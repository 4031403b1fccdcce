"""Phase 2: the joint-embedding predictive architecture (Riou et al., section II-B).

The target encoder is an exponential moving average (EMA) of the encoder (equation 4).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ml.device import autocast
from ml.models.losses import conditioned_nce, jepa_loss, pooled_loss
from ml.models.stem_jepa import StemJepa
from ml.shards.batches import label_id
from ml.tracks import MUSIC
from ml.training.batches import MelBatch
from ml.training.config import TrainingConfig, linear
from ml.training.distributed import gather_rows, global_mean
from ml.training.watch import embedding_health, in_batch_recall

MUSIC_ID = label_id(MUSIC)
"""Of a query that any stem answers."""


class JepaPhase(nn.Module):
    """Loss of phase 2: context → encoder → predictor(condition) against target → target encoder."""

    def __init__(self, model: StemJepa, config: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        assert model.target_encoder is not None
        self.ema = ExponentialMovingAverage(model.target_encoder)
        self._seen: tuple[Tensor, Tensor] | None = None

    def forward(self, batch: MelBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute loss and metrics of a batch."""
        model, objective = self.model, self.config.objective
        with autocast(batch.context.device, self.config.precision):  # the networks alone
            context = model.encoder(batch.context)  # (batch, freq_patch, time_patch, dim)
            prediction = model.predict_patches(context, batch.condition, batch.classes)
            patches, negative_patches = self._target_patches(batch)
            stems = model.encoder(batch.target) if model.has_song_part else None
        prediction = prediction.float()
        if self.training:
            self._seen = context.detach(), patches.detach()
        target = model.normalise_target(patches)
        loss = jepa_loss(prediction, target)
        query, pooled = prediction.mean(1), target.mean(1)  # (batch, dim)
        right = in_batch_recall(gather_rows(query), gather_rows(pooled))
        metrics = {"jepa/patch_loss": loss.detach(), "jepa/right": right}
        if objective.pooled_weight:
            pooled_term = pooled_loss(prediction, target)
            loss = loss + objective.pooled_weight * pooled_term
            metrics["jepa/pooled_loss"] = pooled_term.detach()
        if stems is not None:
            query, pooled = model.instrument_asked(prediction), model.instrument_of_stem(stems)
        if objective.nce_weight:
            nce = self._nce(batch, query, pooled, negative_patches)
            loss = loss + objective.nce_weight * nce
            metrics["jepa/nce_loss"] = nce.detach()
        if not self.training:
            if model.has_song_part:
                query = model.with_song(query, batch.context, is_mix=True)
                pooled = model.with_song(pooled, batch.target, is_mix=False)
            else:  # as queries and gallery have them
                query, pooled = (F.normalize(x, dim=-1).mean(1) for x in (prediction, target))
            rows = (query, pooled, batch.label_ids[:, 0], batch.tracks)
            health = embedding_health(*(gather_rows(each) for each in rows))
            metrics |= {f"jepa/{name}": value for name, value in health.items()}
        return loss, {"jepa/loss": loss.detach(), **metrics}

    def _target_patches(self, batch: MelBatch) -> tuple[Tensor, Tensor | None]:
        """Encode targets (batch, freq_patch, time_patch, dim) and, flat, of negatives."""
        if batch.negatives is None:
            return self.model.target_patches(batch.target), None
        rows = len(batch.target)
        mels = torch.cat([batch.target, batch.negatives.flatten(0, 1)])
        patches = self.model.target_patches(mels)
        return patches[:rows], patches[rows:]

    def _nce(
        self, batch: MelBatch, query: Tensor, pooled: Tensor, negative_patches: Tensor | None
    ) -> Tensor:
        """Compute the conditioned contrastive term of the global batch."""
        negatives = is_negative = None
        if negative_patches is not None and batch.is_negative is not None:
            rows = self.model.normalise_target(negative_patches).mean(1)
            negatives = gather_rows(rows.unflatten(0, batch.is_negative.shape))
            is_negative = gather_rows(batch.is_negative.long()) > 0
        return conditioned_nce(
            gather_rows(query),
            gather_rows(pooled),
            self.config.objective.nce_temperature,
            self._is_answer(batch),
            negatives,
            is_negative,
        )

    def _is_answer(self, batch: MelBatch) -> Tensor:
        """Tell which targets of the global batch answer which queries, as ``conditioned_nce``.

        A target with the asked label among its labels answers if it is of the same track; in
        ``two-part``, where the song is the matter of the other part, of whatever track.
        """
        asked, labels = gather_rows(batch.asked), gather_rows(batch.label_ids)
        # (query, target)
        has_label = (asked[:, None, None] == labels[None]).any(2) | (asked == MUSIC_ID)[:, None]
        if self.model.has_song_part:
            return has_label
        tracks = gather_rows(batch.tracks)
        return has_label & (tracks[:, None] == tracks[None])

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Apply equation 4, then move the running means of patches."""
        objective, steps, model = self.config.objective, self.config.steps, self.model
        rate = linear(step, steps=steps, start=objective.ema_start, end=objective.ema_end)
        self.ema.update(model.encoder, rate)
        assert self._seen is not None
        context, target = self._seen
        spread = global_mean(model.target_spread(target)) if model.has_variance else None
        mixes = global_mean(context.float().mean(0))[None] if model.has_context_patches else None
        model.update_means(
            target=global_mean(target.float().mean(0))[None],
            target_spread=spread,
            context_patches=mixes,
        )

    def learned_parts(self) -> dict[str, tuple[nn.Module | nn.Parameter, float]]:
        """Name what is learned, with the factor on its learning rate."""
        assert self.model.predictor is not None
        rate = self.config.optimizer.encoder_rate
        parts: dict[str, tuple[nn.Module | nn.Parameter, float]] = {
            "encoder": (self.model.encoder, rate),
            "predictor": (self.model.predictor, 1.0),
        }
        if self.model.instrument_heads is not None:
            parts["heads"] = (self.model.instrument_heads, 1.0)
        return parts


class ExponentialMovingAverage:
    """θ̄ ← τ·θ̄ + (1 − τ)·θ for parameters, accumulated in float64.

    At τ = 0.99999 a float32 average loses most of each update to rounding; the float64 master
    copy does not, and the target encoder holds its float32 rounding.
    """

    def __init__(self, target: nn.Module) -> None:
        self._targets = [p.detach() for p in target.parameters()]
        self._master: list[Tensor] = [p.double() for p in self._targets]

    @torch.no_grad()
    def update(self, source: nn.Module, rate: float) -> None:
        """Do one step with τ = ``rate`` in [0, 1]; ``source`` has the parameters of the target."""
        sources = [p.detach().double() for p in source.parameters()]
        for target, master, new in zip(self._targets, self._master, sources, strict=True):
            target.copy_(master.lerp_(new, 1 - rate))

    def state_dict(self) -> dict[str, Any]:
        """Return the master copy, for exact resume."""
        return {"master": self._master}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        for target, master, saved in zip(self._targets, self._master, state["master"], strict=True):
            master.copy_(saved)
            target.copy_(master)
