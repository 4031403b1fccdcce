"""Is a run healthy? Retrieval inside a batch, and whether embeddings collapse."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

_log = logging.getLogger(__name__)
COSINE_LIMIT = 0.98
"""Mean pairwise cosine of targets above which embeddings have collapsed to one direction."""
RANK_LIMIT = 2.0
"""Effective rank of targets below which they lie on a line."""


@torch.no_grad()
def in_batch_recall(query: Tensor, target: Tensor) -> Tensor:
    """Take the share of queries whose nearest target of the batch is their own, in [0, 1]."""
    scores = F.normalize(query, dim=-1) @ F.normalize(target, dim=-1).T
    own = torch.arange(len(scores), device=scores.device)
    return (scores.argmax(1) == own).float().mean()


@torch.no_grad()
def embedding_health(
    query: Tensor, target: Tensor, labels: Tensor, tracks: Tensor
) -> dict[str, Tensor]:
    """Rank and spread pooled embeddings, row i of one belonging to row i of the other.

    Args:
        query: (batch, dim), of mixes or predicted.
        target: (batch, dim), of stems.
        labels: (batch,), equal for targets with the same label.
        tracks: (batch,), equal for pairs of one track.

    Returns:
        ``normalized_rank``: mean over queries of the own target's rank among the batch's, in
        percent (50 at chance). ``within_label_rank``: likewise among the targets of its label of
        other tracks, from 0 (first) to 100; 50 where there are none. ``cosine``: mean over pairs
        of targets, 1 when all point one way. ``effective_rank``: exp of the entropy of the
        targets' normalised singular values (Roy and Vetterli 2007), from 1 to min(batch, dim).
    """
    queries, targets = F.normalize(query.float(), dim=-1), F.normalize(target.float(), dim=-1)
    scores = queries @ targets.T
    is_ahead = scores >= scores.diagonal()[:, None]  # ties count against the query
    batch = len(targets)
    among = targets @ targets.T
    shares = torch.linalg.svdvals(targets)
    shares = shares / shares.sum()
    return {
        "normalized_rank": 100 * is_ahead.float().sum(1).mean() / batch,
        "within_label_rank": _within_label_rank(is_ahead, labels, tracks),
        "cosine": (among.sum() - among.trace()) / max(1, batch * (batch - 1)),
        "effective_rank": torch.special.entr(shares).sum().exp(),
    }


def _within_label_rank(is_ahead: Tensor, labels: Tensor, tracks: Tensor) -> Tensor:
    is_rival = (labels[:, None] == labels[None]) & (tracks[:, None] != tracks[None])
    rivals = is_rival.sum(1)
    ranks = 100 * (is_ahead & is_rival).sum(1)[rivals > 0] / rivals[rivals > 0]
    return ranks.mean() if len(ranks) else ranks.new_tensor(50.0)


def warn_of_collapse(metrics: Mapping[str, float], step: int) -> bool:
    """Log a warning, and return True, when a validation says that embeddings carry next to nothing.

    Uncentred ones, as at size ``paper``, say so for long: a training is warned of once.
    """
    health = {name.rsplit("valid_", 1)[-1]: value for name, value in metrics.items()}
    cosine, rank = health.get("cosine", 0.0), health.get("effective_rank", RANK_LIMIT)
    is_collapsed = cosine > COSINE_LIMIT or rank < RANK_LIMIT
    if is_collapsed:
        _log.warning(
            "step %d: embeddings collapse (mean pairwise cosine %.3f, effective rank %.1f; "
            "expected below %g and above %g); lower optimizer.learning_rate, or centre: "
            "model.is_centred=true, model.target_norm=centre",
            *(step, cosine, rank, COSINE_LIMIT, RANK_LIMIT),
        )
    return is_collapsed
