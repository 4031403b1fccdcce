"""The losses, as bare equations. Centring and gathering happen before them, in named functions.

Equation numbers are those of Riou et al., arXiv:2411.19806v2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(
    context: Tensor,
    target: Tensor,
    temperature: Tensor | float,
    tracks: Tensor | None = None,
    negatives: Tensor | None = None,
    is_negative: Tensor | None = None,
) -> Tensor:
    """Compute the contrastive loss of phase 1 (equation 1; NT-Xent of SimCLR).

    L = mean over the 2B rows r of −log( exp(sim(r, r⁺)/T) / Σ_{r' ≠ r} exp(sim(r, r')/T) ), where
    r⁺ is the other side of the same pair and sim the cosine. A model that has learned nothing
    scores about ``ln(2B − 1)``.

    Args:
        context: (batch, dim), any norm.
        target: (batch, dim), row i belongs to row i of ``context``.
        temperature: > 0, divides the cosine.
        tracks: (batch,) integers; two pairs of one track are no negatives of each other. Without
            it every pair must come from another track.
        negatives: (batch, negative, dim): more that context i, and it alone, is not to find.
            Differs: not in the paper.
        is_negative: (batch, negative) bool; False: there is none at this place.

    Returns:
        Scalar, float32.
    """
    batch = context.shape[0]
    rows = F.normalize(torch.cat([context, target]).float(), dim=-1)  # (2 batch, dim)
    logits = rows @ rows.T / temperature
    is_out = torch.eye(2 * batch, dtype=torch.bool, device=rows.device)
    partner = torch.arange(2 * batch, device=rows.device).roll(batch)
    if tracks is not None:
        both = torch.cat([tracks, tracks])
        is_out = is_out | (both[:, None] == both[None, :])
        is_out[torch.arange(2 * batch, device=rows.device), partner] = False
    logits = logits.masked_fill(is_out, -math.inf)
    if negatives is not None and is_negative is not None:
        own = _own_logits(rows[:batch], negatives, is_negative, temperature)
        logits = torch.cat([logits, torch.cat([own, torch.full_like(own, -math.inf)])], dim=1)
    return F.cross_entropy(logits, partner)


def jepa_loss(prediction: Tensor, target: Tensor, standardise_target: bool = False) -> Tensor:
    """Compute the prediction loss of phase 2 (equation 3): squared distance of normalised patches.

    mean over patches of ‖ẑ/‖ẑ‖ − z̄/‖z̄‖‖² = 2 − 2·cos(ẑ, z̄), in [0, 4].

    Args:
        prediction: (batch, patch, dim).
        target: (batch, patch, dim); no gradient should flow into it.
        standardise_target: LayerNorm without affine on each target patch first, as the
            predecessor does.

    Returns:
        Scalar, float32.
    """
    target = target.float()
    if standardise_target:
        target = F.layer_norm(target, target.shape[-1:])
    return (2 - 2 * F.cosine_similarity(prediction.float(), target, dim=-1)).mean()


def pooled_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Compute the squared distance of the pooled patches that evaluation compares.

    Differs: not in the paper (``objective.pooled_weight``). 2 − 2·cos(m(ẑ), m(z̄)), in [0, 4], with
    m the mean over patches of z/‖z‖: equation 3 wants every patch right, evaluation their mean.

    Args:
        prediction: (batch, patch, dim).
        target: (batch, patch, dim), normalised as for ``jepa_loss``.

    Returns:
        Scalar, float32.
    """
    query, pooled = (F.normalize(x.float(), dim=-1).mean(1) for x in (prediction, target))
    return (2 - 2 * F.cosine_similarity(query, pooled, dim=-1)).mean()


def conditioned_nce(
    query: Tensor,
    target: Tensor,
    temperature: float,
    is_answer: Tensor | None = None,
    negatives: Tensor | None = None,
    is_negative: Tensor | None = None,
) -> Tensor:
    """Compute symmetric InfoNCE between pooled predictions and targets over the batch.

    Differs: not in the paper (presets ``film-nce``, ``two-part``). Negatives of the same instrument
    force the song, negatives of other instruments force the condition, those of the same track
    both at once.

    Args:
        query: (batch, dim), the mean over patches of the prediction, any norm.
        target: (batch, dim), the mean over patches of the centred target, any norm.
        temperature: > 0, divides the cosine.
        is_answer: (batch, batch) bool; [i, j]: target j is no negative of query i, as it answers it
            too. The diagonal is not looked at.
        negatives: (batch, negative, dim), pooled like ``target``: more stems that query i should
            not find; they have no queries of their own.
        is_negative: (batch, negative) bool; False: there is none at this place.

    Returns:
        Scalar, float32; ``ln(batch)`` at chance without further negatives.
    """
    queries = F.normalize(query.float(), dim=-1)
    logits = queries @ F.normalize(target.float(), dim=-1).T
    logits = logits / temperature
    place = torch.arange(logits.shape[0], device=logits.device)
    if is_answer is not None:
        is_other = ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(is_answer & is_other, -math.inf)
    candidates = logits  # (batch, candidate)
    if negatives is not None and is_negative is not None:
        own = _own_logits(queries, negatives, is_negative, temperature)
        candidates = torch.cat([logits, own], dim=1)
    return (F.cross_entropy(candidates, place) + F.cross_entropy(logits.T, place)) / 2


def _own_logits(
    queries: Tensor, negatives: Tensor, is_negative: Tensor, temperature: Tensor | float
) -> Tensor:
    """Compare queries (batch, dim) of unit norm with their negatives: (batch, negative)."""
    own = torch.einsum("bd,bnd->bn", queries, F.normalize(negatives.float(), dim=-1))
    return (own / temperature).masked_fill(~is_negative, -math.inf)
