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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import torch

from ml.corpora.corpus import MUSIC
from ml.shards.chunks import best_start, gives_pair, sounding_stems
from ml.shards.index import IndexedSegment, IndexedStem

ActivityRule = Literal["intervals", "peak"]


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

    def __post_init__(self) -> None:
        if self.rule not in get_args(ActivityRule):
            raise ValueError(f"rule is {self.rule!r}; expected 'intervals' or 'peak'")
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


def collate(
    pairs: Sequence[Pair],
    samples: int,
    conditions: np.ndarray,
    read: Callable[[Pair, IndexedStem, np.ndarray], None],
) -> PairBatch:
    """Pairs as one batch, their audio read straight to its place.

    Args:
        pairs: what was drawn.
        samples: length of a chunk.
        conditions: (batch, condition_dim) float32.
        read: fills (samples,) int16 with the chunk of a stem of a pair.
    """
    widest = max(len(pair.draw.context) for pair in pairs)
    target = np.empty((len(pairs), samples), dtype=np.int16)
    context = np.zeros((len(pairs), widest, samples), dtype=np.int16)
    context_gain = np.zeros((len(pairs), widest), dtype=np.float32)
    for row, pair in enumerate(pairs):
        read(pair, pair.target, target[row])
        for place, stem in enumerate(pair.context):
            read(pair, stem, context[row, place])
            context_gain[row, place] = stem.gain
    return PairBatch(
        context=torch.from_numpy(context),
        context_gain=torch.from_numpy(context_gain),
        target=torch.from_numpy(target),
        target_gain=torch.tensor([pair.target.gain for pair in pairs], dtype=torch.float32),
        condition=torch.from_numpy(conditions),
        four_class=torch.tensor([pair.target.four_class for pair in pairs]),
        track=torch.tensor([pair.track for pair in pairs]),
        label_group=torch.tensor([_label_group(pair.target.labels) for pair in pairs]),
        labels=[pair.draw.label for pair in pairs],
        keys=[pair.segment.key for pair in pairs],
    )


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
