"""What all audio shares, as running means in the checkpoint, and its removal from patches.

Riou et al. have none of this. Differs: pooled and patch embeddings of all audio share one large
component, which a cosine of normalised vectors keeps; see ``StemJepaConfig.target_norm``. The means
are those of training batches, never of what is evaluated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ml.models.config import StemJepaConfig

_MEAN_MOMENTUM = 0.99
_VARIANCE_FLOOR = 1e-6
"""Entries of patches are of order 1; one that hardly moves is not blown up."""


class RunningMeans(nn.Module):
    """The running means of a model, and the normalisation of patches with them.

    Buffers: ``context_mean`` (dim,), pooled embeddings of mixes; ``target_mean`` (freq_patch,
    time_patch, dim), patches of stems by their place; ``mean_updates``; ``spectrum_mean``
    (2 · mel_bin,), see ``ml.audio.mel``. In phase 2, where the configuration asks for them:
    ``target_variance`` (freq_patch, dim), of patches of stems about ``target_mean``;
    ``context_patch_mean`` (freq_patch, time_patch, dim), patches of mixes by their place;
    ``song_context_mean`` and ``song_target_mean`` (dim,), pooled embeddings of mixes and stems by
    phase 1, which stay.
    """

    context_mean: Tensor
    target_mean: Tensor
    mean_updates: Tensor
    spectrum_mean: Tensor
    target_variance: Tensor
    context_patch_mean: Tensor
    song_context_mean: Tensor
    song_target_mean: Tensor

    def __init__(self, config: StemJepaConfig) -> None:
        super().__init__()
        self.config = config
        freq_patches, _, dim = config.patch_grid
        self.register_buffer("context_mean", torch.zeros(dim))
        self.register_buffer("target_mean", torch.zeros(config.patch_grid))
        self.register_buffer("mean_updates", torch.zeros(()))
        self.register_buffer("spectrum_mean", torch.zeros(2 * config.log_mel.mel_bins))
        is_phase_2 = config.predictor is not None
        self.has_variance = is_phase_2 and config.target_norm == "centre-scale"
        self.has_context_patches = is_phase_2 and config.is_context_centred
        self.has_song_part = config.song_share > 0
        if self.has_variance:
            self.register_buffer("target_variance", torch.ones(freq_patches, dim))
        if self.has_context_patches:
            self.register_buffer("context_patch_mean", torch.zeros(config.patch_grid))
        if self.has_song_part:
            self.register_buffer("song_context_mean", torch.zeros(dim))
            self.register_buffer("song_target_mean", torch.zeros(dim))

    def normalise_target(self, patches: Tensor) -> Tensor:
        """Apply N of the loss and of the gallery, before the L2 norm.

        Args:
            patches: (batch, freq_patch, time_patch, dim), of the target encoder.

        Returns:
            (batch, patch, dim) float32.
        """
        patches = patches.float()
        if self.config.target_norm == "standardise":
            return F.layer_norm(patches, patches.shape[-1:]).flatten(1, 2)
        return self._scaled(patches - at_places(self.target_mean, patches.shape[2])).flatten(1, 2)

    def normalise_context(self, patches: Tensor) -> Tensor:
        """Normalise what the predictor gets of the context; by default patches stay as they are.

        Args:
            patches: (batch, freq_patch, time_patch, dim), of the encoder.

        Returns:
            (batch, patch, dim); float32 when ``is_context_centred``.
        """
        if not self.has_context_patches:
            return patches.flatten(1, 2)
        mean = at_places(self.context_patch_mean, patches.shape[2])
        return self._scaled(patches.float() - mean).flatten(1, 2)

    def _scaled(self, patches: Tensor) -> Tensor:
        if not self.has_variance:
            return patches
        return patches / self.target_variance.clamp(min=_VARIANCE_FLOOR).sqrt()[:, None]

    @torch.no_grad()
    def target_spread(self, patches: Tensor) -> Tensor:
        """Average the square distance of patches from their mean.

        Args:
            patches: (batch, freq_patch, time_patch, dim).

        Returns:
            (freq_patch, dim): over batch and time, from ``target_mean`` as it is now.
        """
        return (patches.float() - self.target_mean).square().mean((0, 2))

    @torch.no_grad()
    def update_means(
        self,
        *,
        target: Tensor,
        context: Tensor | None = None,
        target_spread: Tensor | None = None,
        context_patches: Tensor | None = None,
    ) -> None:
        """Move the running means towards the means of a batch.

        The first updates average all batches seen so far, later ones forget with momentum 0.99.

        Args:
            target: (batch, freq_patch, time_patch, dim), patches of stems.
            context: (batch, dim), pooled embeddings of mixes; None: their mean stays.
            target_spread: (freq_patch, dim), ``target_spread`` of the same patches before this
                update; needed with ``has_variance``, which stays exactly the variance about the
                running mean (West 1979).
            context_patches: (batch, freq_patch, time_patch, dim), patches of mixes; needed with
                ``has_context_patches``.
        """
        momentum = torch.clamp(self.mean_updates / (self.mean_updates + 1), max=_MEAN_MOMENTUM)
        before = self.target_mean.clone()
        self.target_mean.lerp_(target.float().mean(0), 1 - momentum)
        if context is not None:
            self.context_mean.lerp_(context.float().mean(0), 1 - momentum)
        if self.has_variance and target_spread is not None:
            moved = (self.target_mean - before).square().mean(1)
            self.target_variance.lerp_(target_spread, 1 - momentum).sub_(moved)
        if self.has_context_patches and context_patches is not None:
            self.context_patch_mean.lerp_(context_patches.float().mean(0), 1 - momentum)
        self.mean_updates += 1

    @torch.no_grad()
    def begin_context_patches(self) -> None:
        """Start ``context_patch_mean`` from the means that phase 1 has.

        Its mean over places is ``context_mean``, as the score of phase 1 has it; places differ as
        they do for stems (mostly by their position), until training has seen mixes.
        """
        places = self.target_mean - self.target_mean.mean((0, 1))
        self.context_patch_mean.copy_(places + self.context_mean)


def at_places(mean: Tensor, time_patches: int) -> Tensor:
    """Truncate a mean by place, or continue it by its mean over time to another length.

    Args:
        mean: (freq_patch, time_patch, dim).
        time_patches: the length.
    """
    within = mean[:, :time_patches]
    if (missing := time_patches - within.shape[1]) > 0:
        beyond = mean.mean(1, keepdim=True).expand(-1, missing, -1)
        within = torch.cat([within, beyond], dim=1)
    return within
