"""Training pairs: which chunk, which target, which context (Riou et al., section II-E).

A chunk is drawn uniformly from a segment, or a whole track; the target uniformly among the stems
that sound in it; the context's size uniformly from 1 to the number of the other sounding stems,
then a subset of that size. With fewer than two sounding stems the chunk is drawn again; after
``draws`` tries the chunk with most sounding stems is taken. The label is drawn uniformly from the
target's hierarchy, "music" where it has none.

A build keeps only segments that hold a chunk with two sounding stems (``gives_pair``). How activity
is found in a waveform is the matter of ``ml.audio.activity``, which segments come when that of
``split``, reading them that of ``reader``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from ml.audio.activity import active_seconds
from ml.plain import added_field
from ml.shards.index import Damage, IndexedSegment, IndexedStem, Parts
from ml.tracks import MUSIC

LABEL_LEVELS = 6
"""How many of a stem's labels, the finest ones, a batch can tell apart."""
GRID_S = 0.1
"""Distance of the chunk starts that ``best_start`` tries, in seconds."""

TOLERANCE_S = 1e-6
"""Rounding of times: an activity of 0.1 s is one although 0.4 - 0.3 < 0.1."""

ActivityRule = Literal["intervals", "peak"]
OnDamage = Literal["error", "skip"]

Intervals = Sequence[tuple[float, float]]
"""Where a stem sounds, in seconds from the segment's start; sorted, disjoint."""


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """How pairs are drawn."""

    chunk_s: float = 8.0
    """Length of a chunk; a shorter segment is padded with silence at its end."""
    rule: ActivityRule = "intervals"
    """When a stem sounds in a chunk. ``peak``: if its peak there exceeds ``min_peak`` (the rule of
    the predecessor, to which the paper refers; reads every stem of the chunk). ``intervals``: if it
    does for ``min_active_s`` by the silence rule of ``ml.audio.activity``. Differs: nothing that is
    not in the batch is read, and a quiet stem counts."""
    min_active_s: float = 0.5
    """For ``intervals``: half a second is a note or a few hits."""
    min_peak: float = 0.1
    """For ``peak``; 1.0 is full scale (0.1: the predecessor's)."""
    is_by_track: bool = added_field(False)
    """An epoch takes one chunk of each track, uniformly from all of it (predecessor). False: one of
    each stored segment. Differs: a track counts by its length, and no chunk reaches across the
    border of two segments."""
    weights: Mapping[str, float] | None = added_field(None)
    """Share of each batch that a corpus fills, by its name; they need not add up to 1. None: each
    segment, or track, once an epoch, so that a corpus counts by its size."""
    draws: int = 10
    """How often a chunk is drawn before the best one of the segment is taken."""
    window_shards: int = 16
    """How many shards are mixed with each other at a time."""
    damaged: OnDamage = "error"
    """What a sample that cannot be read does. ``error``: stop. ``skip``: another segment takes its
    place in the batch, drawn by seed and place; skipped samples are counted and shards named."""
    music_share: float = added_field(0.0)
    """With this probability "music" takes the place of the drawn label, in training. Differs: so
    that asking without naming an instrument is learned where every stem has a label."""
    hard_negatives: int = added_field(0)
    """So many more stems of the target's track are read for each pair, or fewer where there are no
    more: such that sound in the chunk, are not in the context and that the drawn label does not
    name. Differs: negatives of the conditioned contrastive term (``objective.nce_weight``) that
    only the instrument tells apart."""
    time_negatives: int = added_field(0)
    """Phase 1: so many more chunks of the target's stem are read for each pair, of other times at
    which it sounds. Differs: negatives that only the place in time tells apart."""
    semitones: int = added_field(0)
    """Context and target are read 2^(n/12) times as fast, n drawn from − this … this: in another
    key and tempo. Differs: more songs than there are."""
    speed_negatives: int = added_field(0)
    """Phase 1: so many more times the target's chunk is read for each pair, in other keys and
    tempos than the context's (``semitones``). Differs: negatives that only these tell apart."""

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
        if not 0 <= self.music_share <= 1:
            raise ValueError(f"music_share is {self.music_share}; expected 0 … 1")
        self._check_negatives()

    def _check_negatives(self) -> None:
        for name in ("hard_negatives", "time_negatives", "speed_negatives"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if not 0 <= self.semitones <= 6 or (self.semitones and self.rule == "peak"):
            raise ValueError(
                f"semitones is {self.semitones} with rule {self.rule!r}; expected 0 … 6, and 0 "
                "with rule 'peak', which looks at chunks of one length"
            )
        if self.speed_negatives > 2 * self.semitones:
            raise ValueError(
                f"speed_negatives is {self.speed_negatives} with semitones {self.semitones}; "
                "expected no more than twice as many: so many other speeds there are"
            )

    @property
    def negatives(self) -> int:
        """How many more chunks are read for a pair, at most."""
        return self.hard_negatives + self.time_negatives + self.speed_negatives


class Excerpt(NamedTuple):
    """A chunk of a stem of the segment."""

    stem: int
    """Index of the stem."""
    start: int
    """First sample in the segment."""
    semitones: int = 0
    """Read 2^(n/12) times as fast."""


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
    is_music: bool = False
    """"music" took the place of the drawn label."""
    semitones: int = 0
    """Context and target are read 2^(n/12) times as fast."""
    negatives: tuple[Excerpt, ...] = ()
    """What the pair's query should not find."""

    def excerpt(self, stem: int) -> Excerpt:
        """Take a stem where context and target lie."""
        return Excerpt(stem, self.start, self.semitones)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A drawn pair and where it comes from."""

    draw: PairDraw
    segment: IndexedSegment
    """What it was drawn from: a stored segment, or all of a track (``whole_track``)."""
    parts: Parts
    """What is stored of it: itself, or the segments of the track."""
    shard: int
    """Index of their shard."""
    track: int
    """Index into ``ShardPairs.tracks``, of the first of its song."""
    heard: Mapping[tuple[int, str], np.ndarray] = field(default_factory=dict)
    """Chunks that were read to draw it: (start, ``stem_id``) → (samples,) int16."""

    @property
    def target(self) -> IndexedStem:
        """The stem to find."""
        return self.segment.stems[self.draw.target]

    def gains(self, excerpts: Sequence[Excerpt]) -> list[float]:
        """Take the gains of the stems of excerpts."""
        return [self.segment.stems[x.stem].gain for x in excerpts]


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """A batch of pairs."""

    context: torch.Tensor
    """(batch, samples) float32: the mix, full scale ±1, not clipped."""
    target: torch.Tensor
    """(batch, samples) int16; waveform = int16 / 32768 * gain."""
    target_gain: torch.Tensor
    """(batch,) float32."""
    condition: torch.Tensor
    """(batch, condition_dim) float32: embedding of the drawn label."""
    four_class: torch.Tensor
    """(batch,) int64: index of the target into ``ml.labels.taxonomy.FOUR_CLASSES``."""
    track: torch.Tensor
    """(batch,) int64: index into ``ShardPairs.tracks``; equal for one song of several corpora."""
    asked: torch.Tensor
    """(batch,) int64: id of the drawn label (``label_id``)."""
    label_ids: torch.Tensor
    """(batch, LABEL_LEVELS) int64: ids of the target's labels, the finest first; it fills the
    levels that are not there."""
    labels: list[str]
    """The drawn label texts."""
    keys: list[str]
    """The sample of each pair."""
    negatives: torch.Tensor | None = None
    """(batch, negative, samples) int16; None unless ``PairConfig.negatives``."""
    negative_gain: torch.Tensor | None = None
    """(batch, negative) float32; 0 where there is none."""
    skipped: tuple[Damage, ...] = ()
    """Samples that could not be read, in whose place others stand."""
    bytes_read: int = 0
    """What was read of the shards for this batch."""

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.keys)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PairBatch:
        """Move the batch to another device."""
        return self._with_tensors(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PairBatch:
        """Copy the batch to page-locked memory (called by the DataLoader)."""
        return self._with_tensors(torch.Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> PairBatch:
        values = ((each.name, getattr(self, each.name)) for each in fields(self))
        changed: dict[str, Any] = {k: change(v) for k, v in values if isinstance(v, torch.Tensor)}
        return replace(self, **changed)


def can_give_pair(segment: IndexedSegment, rate_hz: int, config: PairConfig) -> bool:
    """Whether some chunk of the segment has two sounding stems (by the intervals rule)."""
    intervals = [stem.intervals for stem in segment.stems]
    duration_s = segment.samples / rate_hz
    return gives_pair(intervals, duration_s, config.chunk_s, config.min_active_s)


def whole_track(parts: Parts, rate_hz: int) -> IndexedSegment:
    """Describe what is stored of a track as one segment.

    A stem is described as where it is stored first; rows of labels and places of members are those
    of the parts, to be found there by text and ``stem_id``.
    """
    stems: dict[str, IndexedStem] = {}
    for first, part in parts:
        shift_s = first / rate_hz
        for stem in part.stems:
            moved = tuple((start + shift_s, end + shift_s) for start, end in stem.intervals)
            known = stems.setdefault(stem.stem_id, replace(stem, intervals=()))
            stems[stem.stem_id] = replace(known, intervals=known.intervals + moved)
    last_first, last = parts[-1]
    samples = last_first + last.samples
    return replace(parts[0][1], samples=samples, stems=tuple(stems.values()))


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
    drawing = _Drawing(segment, rate_hz, config, rng)
    semitones = 0
    if config.semitones:
        semitones = int(rng.integers(-config.semitones, config.semitones + 1))
    chunk_s = config.chunk_s * speed(semitones)
    last = max(0, segment.samples - round(chunk_s * rate_hz))
    for _ in range(config.draws):
        start = int(rng.integers(last + 1))
        if config.rule == "peak":
            sounding = np.flatnonzero(peaks(start) > config.min_peak).tolist()
        else:
            sounding = drawing.sounding(start / rate_hz, chunk_s)
        if len(sounding) >= 2:
            break
    else:
        semitones = 0
        start, sounding = drawing.best_chunk()
    target, *others = rng.permutation(sounding).tolist()  # the others: in random order too
    context = others[: int(rng.integers(len(others))) + 1]
    label, is_music = drawing.label(target)
    draw = PairDraw(
        start=start,
        target=target,
        context=tuple(sorted(context)),
        label=label,
        is_music=is_music,
        semitones=semitones,
    )
    wrong = drawing.wrong_stems(target, others[len(context) :], label)
    negatives = [draw.excerpt(stem) for stem in wrong]
    if config.time_negatives:
        negatives += drawing.other_times(draw)
    if config.speed_negatives:
        negatives += drawing.other_speeds(draw)
    return replace(draw, negatives=tuple(negatives))


def speed(semitones: int) -> float:
    """Return how fast audio is read that shall sound so many semitones higher."""
    return 2 ** (semitones / 12)


class _Drawing(NamedTuple):
    """What a pair is drawn from, and how."""

    segment: IndexedSegment
    rate_hz: int
    config: PairConfig
    rng: np.random.Generator

    @property
    def intervals(self) -> list[Intervals]:
        """Where each stem sounds."""
        return [stem.intervals for stem in self.segment.stems]

    def sounding(self, start_s: float, chunk_s: float) -> list[int]:
        """List the stems that sound in a chunk by the intervals rule."""
        min_active_s = self.config.min_active_s
        return sounding_stems(self.intervals, start_s, start_s + chunk_s, min_active_s)

    def best_chunk(self) -> tuple[int, list[int]]:
        """Find where most stems sound by the intervals rule, whatever the rule, and which."""
        duration_s, chunk_s = self.segment.samples / self.rate_hz, self.config.chunk_s
        start_s, _ = best_start(self.intervals, duration_s, chunk_s, self.config.min_active_s)
        return round(start_s * self.rate_hz), self.sounding(start_s, chunk_s)

    def label(self, target: int) -> tuple[str, bool]:
        """Draw the label of a target, and whether "music" takes its place."""
        stem, music_share = self.segment.stems[target], self.config.music_share
        drawn = int(self.rng.integers(len(stem.label_rows)))
        if music_share and self.rng.random() < music_share:
            return MUSIC, True
        return (stem.labels[drawn] if stem.labels else MUSIC), False

    def wrong_stems(self, target: int, left: list[int], label: str) -> list[int]:
        """Take the first stems (they come in random order) that ``label`` does not ask for."""
        if not self.config.hard_negatives or label == MUSIC:  # any stem is music
            return []
        finest = self.segment.stems[target].labels[-1:]
        wrong = [
            i
            for i in left
            if (labels := self.segment.stems[i].labels)
            and label not in labels
            and labels[-1:] != finest
        ]
        return wrong[: self.config.hard_negatives]

    def other_times(self, draw: PairDraw) -> list[Excerpt]:
        """Draw chunks of the target in which it sounds, and that share nothing with its own."""
        chunk_s = self.config.chunk_s * speed(draw.semitones)
        samples = round(chunk_s * self.rate_hz)
        last = max(0, self.segment.samples - samples)
        return [
            Excerpt(draw.target, start, draw.semitones)
            for start in self.rng.integers(last + 1, size=self.config.draws).tolist()
            if abs(start - draw.start) >= samples
            and draw.target in self.sounding(start / self.rate_hz, chunk_s)
        ][: self.config.time_negatives]

    def other_speeds(self, draw: PairDraw) -> list[Excerpt]:
        """Draw speeds for the target's chunk at which the segment is long enough for it."""
        end_s = (self.segment.samples - draw.start) / self.rate_hz
        most, chunk_s = self.config.semitones, self.config.chunk_s
        return [
            Excerpt(draw.target, draw.start, n)
            for n in self.rng.permutation(range(-most, most + 1)).tolist()
            if n != draw.semitones and chunk_s * speed(n) <= end_s
        ][: self.config.speed_negatives]


def sounding_stems(
    stems: Sequence[Intervals], start_s: float, end_s: float, min_active_s: float
) -> list[int]:
    """List the stems, by index, that sound for ``min_active_s`` or more between two times."""
    return [
        i
        for i, intervals in enumerate(stems)
        if active_seconds(intervals, start_s, end_s) >= min_active_s - TOLERANCE_S
    ]


def best_start(
    stems: Sequence[Intervals], duration_s: float, chunk_s: float, min_active_s: float
) -> tuple[float, int]:
    """Find the chunk in which most stems sound.

    Args:
        stems: activity of each stem of the segment.
        duration_s: length of the segment; a shorter one than ``chunk_s`` has one chunk, itself.
        chunk_s: length of a chunk.
        min_active_s: how long a stem must sound in a chunk to count.

    Returns:
        Start of the chunk in seconds (among equals the one with the most activity, then the first)
        and the number of stems that sound in it.
    """
    last_s = max(0.0, duration_s - chunk_s)
    starts = np.append(np.arange(0.0, last_s, GRID_S), last_s)
    active_s = np.stack([_active_between(x, starts, starts + chunk_s) for x in stems])
    counts = (active_s >= min_active_s - TOLERANCE_S).sum(axis=0)  # (start,)
    best = int(np.lexsort((starts, -active_s.sum(axis=0), -counts))[0])
    return float(starts[best]), int(counts[best])


def gives_pair(
    stems: Sequence[Intervals], duration_s: float, chunk_s: float, min_active_s: float
) -> bool:
    """Whether some chunk of the segment has two sounding stems (on the grid of ``best_start``)."""
    longest_silence_s = min(chunk_s, duration_s) - min_active_s
    always = sum(
        duration_s - active_seconds(x, 0.0, duration_s) <= longest_silence_s for x in stems
    )
    if always >= 2:  # these two sound in every chunk: the usual case, without a search
        return True
    return len(stems) >= 2 and best_start(stems, duration_s, chunk_s, min_active_s)[1] >= 2


def _active_between(intervals: Intervals, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Measure the seconds of activity between each start and end: (start,)."""
    if not len(intervals):
        return np.zeros(len(starts))
    edges = np.asarray(intervals, dtype=np.float64)  # (interval, 2)
    lengths = edges[:, 1] - edges[:, 0]
    before = np.stack([np.cumsum(lengths) - lengths, np.cumsum(lengths)], axis=1)
    knots, totals = edges.ravel(), before.ravel()
    return np.interp(ends, knots, totals) - np.interp(starts, knots, totals)
