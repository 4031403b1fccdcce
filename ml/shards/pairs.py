"""Training pairs: which chunk, which target, which context (Riou et al., section II-E).

A chunk is drawn uniformly from a segment; the target uniformly among the stems that sound in it;
the context's size uniformly from 1 to the number of the other sounding stems, then a subset of that
size. With fewer than two sounding stems the chunk is drawn again; after ``draws`` tries the chunk
of the segment with most sounding stems is taken. The label is drawn uniformly from the target's
hierarchy, "music" where it has none. Which segments come when is the matter of ``order``, reading
them that of ``reader``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import torch

from ml.corpora.corpus import MUSIC
from ml.shards.chunks import best_start, gives_pair, sounding_stems
from ml.shards.damage import Damage
from ml.shards.index import IndexedSegment, IndexedStem

ActivityRule = Literal["intervals", "peak"]
OnDamage = Literal["error", "skip"]


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """How pairs are drawn."""

    chunk_s: float = 8.0
    """Length of a chunk; a shorter segment is padded with silence at its end."""
    rule: ActivityRule = "intervals"
    """When a stem sounds in a chunk. ``intervals``: if it does for ``min_active_s`` by the silence
    rule of ``ml.audio.activity``. ``peak``: if its peak there exceeds ``min_peak`` (the
    predecessor's rule; reads every stem of the chunk)."""
    min_active_s: float = 0.5
    """For ``intervals``. Differs: the paper does not say; half a second is a note or a few hits."""
    min_peak: float = 0.1
    """For ``peak``; 1.0 is full scale."""
    draws: int = 10
    """How often a chunk is drawn before the best one of the segment is taken."""
    window_shards: int = 16
    """How many shards are mixed with each other at a time."""
    damaged: OnDamage = "error"
    """What a sample that cannot be read does. ``error``: stop. ``skip``: another segment takes its
    place in the batch, drawn by seed and place; skipped samples are counted and shards named."""

    def __post_init__(self) -> None:
        if self.rule not in get_args(ActivityRule):
            raise ValueError(f"rule is {self.rule!r}; expected 'intervals' or 'peak'")
        if self.damaged not in get_args(OnDamage):
            raise ValueError(f"damaged is {self.damaged!r}; expected 'error' or 'skip'")
        for name in ("chunk_s", "min_active_s", "min_peak", "draws", "window_shards"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.min_active_s > self.chunk_s:
            raise ValueError(f"min_active_s {self.min_active_s} exceeds chunk_s {self.chunk_s}")


@dataclass(frozen=True, kw_only=True)
class PairDraw:
    """One pair as drawn; nothing read yet."""

    start: int
    """First sample of the chunk in its segment."""
    target: int
    """Index of the target among the segment's stems."""
    context: tuple[int, ...]
    """Indices of the context's stems; never empty, never the target."""
    label: str
    """The drawn label text."""
    label_row: int
    """Its row in ``labels.npy``."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A drawn pair and where it comes from."""

    draw: PairDraw
    segment: IndexedSegment
    shard: int
    """Index of the segment's shard."""
    track: int
    """Index into ``ShardPairs.tracks``."""

    @property
    def target(self) -> IndexedStem:
        """The stem to find."""
        return self.segment.stems[self.draw.target]

    @property
    def context(self) -> list[IndexedStem]:
        """The stems that are given."""
        return [self.segment.stems[i] for i in self.draw.context]


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """A batch of pairs; waveform = int16 / 32768 * gain."""

    context: torch.Tensor
    """(batch, context_stem, samples) int16, zero-padded to the largest context of the batch."""
    context_gain: torch.Tensor
    """(batch, context_stem) float32; 0 for padding."""
    target: torch.Tensor
    """(batch, samples) int16."""
    target_gain: torch.Tensor
    """(batch,) float32."""
    condition: torch.Tensor
    """(batch, condition_dim) float32: embedding of the drawn label."""
    four_class: torch.Tensor
    """(batch,) int64: index of the target into ``ml.corpora.taxonomy.FOUR_CLASSES``."""
    track: torch.Tensor
    """(batch,) int64: index into ``ShardPairs.tracks``."""
    label_group: torch.Tensor
    """(batch,) int64: equal for targets with the same finest label."""
    labels: list[str]
    """The drawn label texts."""
    keys: list[str]
    """The sample of each pair."""
    skipped: tuple[Damage, ...] = ()
    """Samples that could not be read, in whose place others stand."""
    bytes_read: int = 0
    """What was read of the shards for this batch."""

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.keys)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PairBatch:
        """The batch on another device."""
        return self._with_tensors(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PairBatch:
        """The batch in page-locked memory (called by the DataLoader)."""
        return self._with_tensors(torch.Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> PairBatch:
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        changed: dict[str, Any] = {k: change(v) for k, v in values if isinstance(v, torch.Tensor)}
        return replace(self, **changed)


def can_give_pair(segment: IndexedSegment, rate_hz: int, config: PairConfig) -> bool:
    """Whether some chunk of the segment has two sounding stems (by the intervals rule)."""
    intervals = [stem.intervals for stem in segment.stems]
    duration_s = segment.samples / rate_hz
    return gives_pair(intervals, duration_s, config.chunk_s, config.min_active_s)


def draw_pair(
    segment: IndexedSegment,
    rate_hz: int,
    config: PairConfig,
    rng: np.random.Generator,
    peaks: Callable[[int], np.ndarray],
) -> PairDraw:
    """Draw chunk, target, context and label from a segment.

    Args:
        segment: one for which ``can_give_pair`` holds.
        rate_hz: rate of its samples.
        config: how to draw.
        rng: the randomness; nothing else decides.
        peaks: start of a chunk → peak of each stem in it, (stem,); called by the peak rule only.
    """
    last = max(0, segment.samples - round(config.chunk_s * rate_hz))
    for _ in range(config.draws):
        start = int(rng.integers(last + 1))
        if config.rule == "peak":
            sounding = np.flatnonzero(peaks(start) > config.min_peak).tolist()
        else:
            sounding = _sounding(segment, start / rate_hz, config)
        if len(sounding) >= 2:
            break
    else:
        start, sounding = _fallback(segment, rate_hz, config)
    target, *others = rng.permutation(sounding).tolist()  # the others: in random order too
    context = others[: int(rng.integers(len(others))) + 1]
    stem = segment.stems[target]
    drawn = int(rng.integers(len(stem.label_rows)))
    return PairDraw(
        start=start,
        target=target,
        context=tuple(sorted(context)),
        label=stem.labels[drawn] if stem.labels else MUSIC,
        label_row=stem.label_rows[drawn],
    )


class BatchRows:
    """The arrays of a batch while its rows are filled, audio read straight to its place."""

    def __init__(self, pairs: Sequence[Pair], samples: int, condition_dim: int) -> None:
        """Make room.

        Args:
            pairs: what each row is expected to hold; ``fill`` may bring another pair.
            samples: length of a chunk.
            condition_dim: length of a condition.
        """
        self._pairs = list(pairs)
        widest = max(len(pair.draw.context) for pair in pairs)
        self._target = _shareable(len(pairs), samples, dtype=torch.int16)
        self._context = _shareable(len(pairs), widest, samples, dtype=torch.int16)
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
        context = self._context[row].numpy()
        for place, stem in enumerate(pair.context):
            read(stem, context[place])
        context[len(pair.context) :] = 0

    def batch(self, skipped: Sequence[Damage], bytes_read: int) -> PairBatch:
        """The batch, once every row is filled."""
        pairs = self._pairs
        context_gain = torch.zeros(self._context.shape[:2])
        for row, pair in enumerate(pairs):
            for place, stem in enumerate(pair.context):
                context_gain[row, place] = stem.gain
        return PairBatch(
            context=self._context,
            context_gain=context_gain,
            target=self._target,
            target_gain=torch.tensor([pair.target.gain for pair in pairs], dtype=torch.float32),
            condition=self._condition,
            four_class=torch.tensor([pair.target.four_class for pair in pairs]),
            track=torch.tensor([pair.track for pair in pairs]),
            label_group=torch.tensor([_label_group(pair.target.labels) for pair in pairs]),
            labels=[pair.draw.label for pair in pairs],
            keys=[pair.segment.key for pair in pairs],
            skipped=tuple(skipped),
            bytes_read=bytes_read,
        )


def _shareable(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """An empty tensor; in a worker process in shared memory, so it is not copied to get out."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(dtype.itemsize * math.prod(shape))
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # pyright: ignore[reportCallIssue]


def _sounding(segment: IndexedSegment, start_s: float, config: PairConfig) -> list[int]:
    intervals = [stem.intervals for stem in segment.stems]
    return sounding_stems(intervals, start_s, start_s + config.chunk_s, config.min_active_s)


def _fallback(segment: IndexedSegment, rate_hz: int, config: PairConfig) -> tuple[int, list[int]]:
    """The segment's best chunk by the intervals rule, whatever the rule."""
    intervals = [stem.intervals for stem in segment.stems]
    duration_s = segment.samples / rate_hz
    start_s, _ = best_start(intervals, duration_s, config.chunk_s, config.min_active_s)
    return round(start_s * rate_hz), _sounding(segment, start_s, config)


def _label_group(labels: Sequence[str]) -> int:
    digest = hashlib.sha256((labels[-1] if labels else MUSIC).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
