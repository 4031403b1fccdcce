"""The arrays of a batch while it is read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ml.corpora.corpus import MUSIC
from ml.shards.damage import Damage
from ml.shards.index import IndexedStem
from ml.shards.pairs import Pair, PairBatch


class BatchRows:
    """The arrays of a batch while its rows are filled, audio read straight to its place."""

    def __init__(
        self, pairs: Sequence[Pair], samples: int, condition_dim: int, hard_negatives: int = 0
    ) -> None:
        """Make room.

        Args:
            pairs: what each row is expected to hold; ``fill`` may bring another pair.
            samples: length of a chunk.
            condition_dim: length of a condition.
            hard_negatives: room for so many in each row.
        """
        self._pairs = list(pairs)
        widest = max(len(pair.draw.context) for pair in pairs)
        self._target = _shareable(len(pairs), samples, dtype=torch.int16)
        self._context = _shareable(len(pairs), widest, samples, dtype=torch.int16)
        self._negatives: torch.Tensor | None = None
        if hard_negatives:
            self._negatives = _shareable(len(pairs), hard_negatives, samples, dtype=torch.int16)
        self._condition = torch.empty(len(pairs), condition_dim)

    def fill(
        self,
        row: int,
        pair: Pair,
        condition: np.ndarray,
        read: Callable[[IndexedStem, np.ndarray], None],
    ) -> None:
        """Read a pair into a row; may be tried again with another pair after an error.

        Args:
            row: which.
            pair: what to read.
            condition: (condition_dim,) float32.
            read: fills (samples,) int16 with the chunk of a stem.
        """
        missing = len(pair.context) - self._context.shape[1]
        if missing > 0:
            self._context = torch.nn.functional.pad(self._context, (0, 0, 0, missing))
        self._pairs[row] = pair
        self._condition[row] = torch.from_numpy(condition)
        read(pair.target, self._target[row].numpy())
        _read_each(pair.context, self._context[row].numpy(), read)
        if self._negatives is not None:
            _read_each(pair.negatives, self._negatives[row].numpy(), read)

    def batch(self, skipped: Sequence[Damage], bytes_read: int) -> PairBatch:
        """The batch, once every row is filled."""
        pairs = self._pairs
        negatives = self._negatives
        return PairBatch(
            context=self._context,
            context_gain=_gains([pair.context for pair in pairs], self._context.shape[1]),
            target=self._target,
            target_gain=torch.tensor([pair.target.gain for pair in pairs], dtype=torch.float32),
            condition=self._condition,
            four_class=torch.tensor([pair.target.four_class for pair in pairs]),
            track=torch.tensor([pair.track for pair in pairs]),
            label_group=torch.tensor([_label_group(pair.target.labels) for pair in pairs]),
            labels=[pair.draw.label for pair in pairs],
            keys=[pair.segment.key for pair in pairs],
            negatives=negatives,
            negative_gain=None
            if negatives is None
            else _gains([pair.negatives for pair in pairs], negatives.shape[1]),
            skipped=tuple(skipped),
            bytes_read=bytes_read,
        )


def _read_each(
    stems: Sequence[IndexedStem],
    chunks: np.ndarray,
    read: Callable[[IndexedStem, np.ndarray], None],
) -> None:
    """Read stems into the first of ``chunks`` (stem, samples); the others become silence."""
    for place, stem in enumerate(stems):
        read(stem, chunks[place])
    chunks[len(stems) :] = 0


def _gains(stems: Sequence[Sequence[IndexedStem]], width: int) -> torch.Tensor:
    """(row, width) float32, 0 where a row has no stem."""
    gains = torch.zeros(len(stems), width)
    for row, chosen in enumerate(stems):
        for place, stem in enumerate(chosen):
            gains[row, place] = stem.gain
    return gains


def _shareable(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """An empty tensor; in a worker process in shared memory, so it is not copied to get out."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(dtype.itemsize * math.prod(shape))
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # pyright: ignore[reportCallIssue]


def _label_group(labels: Sequence[str]) -> int:
    digest = hashlib.sha256((labels[-1] if labels else MUSIC).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
