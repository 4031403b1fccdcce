"""Batch number → batch: which segments, which draws, what is read; run by worker processes.

Everything is a pure function of (shards, ``PairConfig``, seed, number), damaged samples and their
replacements included. No process talks to another: ranks and rows find different replacements by
their number alone. ``PairBatches`` decides what a batch holds; ``BatchRows`` are its arrays while
they are read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from ml.artifacts import ArtifactError
from ml.shards.index import (
    FULL_SCALE,
    Damage,
    DamagedShardError,
    IndexedSegment,
    Parts,
)
from ml.shards.members import ShardMembers
from ml.shards.pairs import (
    LABEL_LEVELS,
    Excerpt,
    Pair,
    PairBatch,
    PairConfig,
    draw_pair,
    speed,
    whole_track,
)
from ml.shards.split import Order, SplitSegments
from ml.tracks import MUSIC


class PairBatches(Dataset["PairBatch | ArtifactError"]):
    """Batch number → this rank's rows of the batch, or what is wrong with a shard.

    The error is returned, not raised: from a worker process the loader would raise it with a
    traceback for its message.
    """

    def __init__(
        self,
        *,
        split: SplitSegments,
        order: Order,
        config: PairConfig,
        condition_dim: int,
        rows: range,
        keeps_decoded: bool = False,
    ) -> None:
        """Open nothing yet.

        Args:
            split: the segments.
            order: which of them, or which of their tracks (``is_by_track``), make up a
                batch.
            config: how to draw.
            condition_dim: length of a condition.
            rows: of the global batch, those that this rank reads.
            keeps_decoded: keep what was decoded in memory; changes no result.
        """
        self._segments = split.segments
        self._shard_of = split.shard_of
        self._of_tracks = split.segments_of_tracks() if config.is_by_track else None
        self._order = order
        self._per_epoch = order.batches_per_epoch
        self._config = config
        self._rate_hz = split.rate_hz
        self._condition_dim = condition_dim
        self._rows = rows
        self._samples = round(config.chunk_s * split.rate_hz)
        self._members = ShardMembers(split.shards, keeps_decoded=keeps_decoded)
        self._places_of_texts = split.places_of_texts
        self._music: np.ndarray | None = None
        if config.music_share:
            self._music = self._music_vector(config)
        self._epoch: tuple[int, np.ndarray] | None = None

    def __getitem__(self, index: int) -> PairBatch | ArtifactError:
        """Read a batch by its number, or return the error."""
        try:
            return self._batch(index)
        except ArtifactError as error:
            return error

    def _batch(self, index: int) -> PairBatch:
        epoch, number = divmod(index, self._per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._order.batches(epoch))
        chosen = self._epoch[1][number]  # (batch_size,)
        before = self._members.bytes_read
        skipped: list[Damage] = []
        negatives = self._config.negatives
        rows = BatchRows(len(self._rows), self._samples, self._condition_dim, negatives)
        for row, of_batch in enumerate(self._rows):
            draws = self._draws(chosen, epoch, number, of_batch, skipped)
            while not self._has_filled(rows, row, next(draws), skipped):
                pass
        return rows.batch(skipped, self._members.bytes_read - before)

    def _has_filled(self, rows: BatchRows, row: int, pair: Pair, skipped: list[Damage]) -> bool:
        """Read a pair into its row; False if it is damaged, and that is put up with."""
        try:
            rows.fill(row, pair, self._condition(pair), self._members)
        except DamagedShardError as error:
            self._skip(error, skipped)
            return False
        return True

    def _draws(
        self, chosen: np.ndarray, epoch: int, number: int, row: int, skipped: list[Damage]
    ) -> Iterator[Pair]:
        """Draw the pair of a row, then those that may take its place."""
        position = number * self._order.batch_size + row
        seed = [self._order.seed, epoch, 1 + position]  # 0: the order's
        yield from self._drawn(int(chosen[row]), np.random.default_rng(seed), skipped)
        for place in self._replacements(chosen, epoch, number, row):
            rng = np.random.default_rng([*seed, 1 + place])
            yield from self._drawn(place, rng, skipped)
        raise ArtifactError(
            f"no segment can be read in place of sample {self._parts(int(chosen[row]))[0][1].key}; "
            f"{skipped[-1]}; make the shards again"
        )

    def _drawn(self, place: int, rng: np.random.Generator, skipped: list[Damage]) -> Iterator[Pair]:
        try:
            yield self._draw(place, rng)
        except DamagedShardError as error:  # the peak rule reads audio to draw
            self._skip(error, skipped)

    def _replacements(self, chosen: np.ndarray, epoch: int, number: int, row: int) -> Iterator[int]:
        """Yield segments that may stand in for a row's.

        First others of its track, then those of tracks that are not in the batch: each row has its
        own share of these, so the batch still holds one pair per track. When none of these can be
        read any segment, even of a track of the batch.
        """
        tracks, size = self._order.tracks, self._order.batch_size
        seed = [self._order.seed, epoch, 0, 2, number]  # the same for all rows
        rng = np.random.default_rng([*seed, 1 + row])
        place = int(chosen[row])
        same = np.flatnonzero(tracks == tracks[place])
        yield from rng.permutation(same[same != place]).tolist()
        free = np.setdiff1d(tracks, tracks[chosen])
        mine = np.random.default_rng(seed).permutation(free)[row::size]
        yield from rng.permutation(np.flatnonzero(np.isin(tracks, mine))).tolist()
        yield from rng.permutation(len(tracks)).tolist()

    def _skip(self, error: DamagedShardError, skipped: list[Damage]) -> None:
        if self._config.damaged == "error":
            raise error
        skipped.append(error.damage)

    def _draw(self, place: int, rng: np.random.Generator) -> Pair:
        """Draw a pair from what lies at a place of the order."""
        parts, shard = self._parts(place), int(self._order.shards[place])
        segment = parts[0][1] if len(parts) == 1 else whole_track(parts, self._rate_hz)
        heard: dict[tuple[int, str], np.ndarray] = {}

        def peaks(start: int) -> np.ndarray:
            heard.clear()
            highest = []
            for stem in segment.stems:
                chunk = heard[start, stem.stem_id] = np.empty(self._samples, dtype=np.int16)
                self._members.read_crop(shard, parts, stem.stem_id, start, chunk)
                highest.append(np.abs(chunk / FULL_SCALE).max() * stem.gain)
            return np.array(highest)

        return Pair(
            draw=draw_pair(segment, self._rate_hz, self._config, rng, peaks),
            segment=segment,
            parts=parts,
            shard=shard,
            track=int(self._order.tracks[place]),
            heard=heard,
        )

    def _parts(self, place: int) -> Parts:
        """Unpack what is stored of a place: its segment, or all of its track."""
        if self._of_tracks is None:
            return [(0, self._segments[place])]
        stored = (self._segments[int(part)] for part in self._of_tracks[place])
        segments = sorted(stored, key=lambda segment: segment.start_s)
        begin_s = segments[0].start_s
        return [(round((x.start_s - begin_s) * self._rate_hz), x) for x in segments]

    def label_vectors(self) -> dict[str, np.ndarray]:
        """Read the condition of every text that a stem is conditioned with: see ``ShardPairs``.

        Raises:
            ArtifactError: a shard is damaged.
        """
        return {text: self._vector_of(text) for text in sorted(self._places_of_texts)}

    def _vector_of(self, text: str) -> np.ndarray:
        place = self._places_of_texts[text]
        segment = self._segments[place]
        return self._vector(int(self._shard_of[place]), segment, text)

    def _music_vector(self, config: PairConfig) -> np.ndarray:
        if MUSIC not in self._places_of_texts:
            raise ArtifactError(
                f"pairs.music_share is {config.music_share:g}, but every stem of the shards has a "
                f"label, so they hold no vector of {MUSIC!r}; add a track with an unlabelled stem, "
                "or set pairs.music_share=0"
            )
        return self._vector_of(MUSIC)

    def _condition(self, pair: Pair) -> np.ndarray:
        """Read what a pair is conditioned with: (condition_dim,) float32."""
        text = pair.draw.label
        if pair.draw.is_music:
            assert self._music is not None
            return self._music
        return self._vector(pair.shard, next(x for _, x in pair.parts if text in x.texts), text)

    def _vector(self, shard: int, segment: IndexedSegment, text: str) -> np.ndarray:
        """Read the row of a text in a segment's ``labels.npy``: (condition_dim,) float32."""
        row, size = segment.texts.index(text), 2 * self._condition_dim
        data = self._members.read(shard, segment.key, segment.labels_offset + row * size, size)
        return np.frombuffer(data, dtype="<f2").astype(np.float32)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the order of an epoch, which is made again."""
        return self.__dict__ | {"_epoch": None}


class BatchRows:
    """The arrays of a batch while its rows are filled, audio read straight to its place."""

    def __init__(self, size: int, samples: int, condition_dim: int, negatives: int = 0) -> None:
        """Make room.

        Args:
            size: how many rows.
            samples: length of a chunk.
            condition_dim: length of a condition.
            negatives: room for so many in each row.
        """
        self._pairs: dict[int, Pair] = {}
        self._target = _shareable(size, samples, dtype=torch.int16)
        self._context = _shareable(size, samples, dtype=torch.float32)
        self._negatives: torch.Tensor | None = None
        if negatives:
            self._negatives = _shareable(size, negatives, samples, dtype=torch.int16)
        self._condition = torch.empty(size, condition_dim)

    def fill(self, row: int, pair: Pair, condition: np.ndarray, members: ShardMembers) -> None:
        """Read a pair into a row; may be tried again with another pair after an error.

        Args:
            row: which.
            pair: what to read.
            condition: (condition_dim,) float32.
            members: of the shards, to read the chunks from.

        Raises:
            DamagedShardError: a chunk cannot be read.
        """
        self._pairs[row] = replace(pair, heard={})
        self._condition[row] = torch.from_numpy(condition)
        target, *context = map(pair.draw.excerpt, (pair.draw.target, *pair.draw.context))
        _read_excerpts(pair, [target], self._target[row : row + 1].numpy(), members)
        stems = np.empty((len(context), self._target.shape[1]), dtype=np.int16)
        _read_excerpts(pair, context, stems, members)
        mix = self._context[row].numpy()
        mix[:] = 0
        # Not by torch, whose idle threads would take a core from the decoding that follows.
        for gain, stem in zip(pair.gains(context), stems, strict=True):
            mix += np.float32(gain / FULL_SCALE) * stem.astype(np.float32)
        if self._negatives is not None:
            _read_excerpts(pair, pair.draw.negatives, self._negatives[row].numpy(), members)

    def batch(self, skipped: Sequence[Damage], bytes_read: int) -> PairBatch:
        """Give the batch, once every row is filled."""
        pairs = [self._pairs[row] for row in range(len(self._target))]
        negatives = self._negatives
        return PairBatch(
            context=self._context,
            target=self._target,
            target_gain=torch.tensor([pair.target.gain for pair in pairs], dtype=torch.float32),
            condition=self._condition,
            four_class=torch.tensor([pair.target.four_class for pair in pairs]),
            track=torch.tensor([pair.track for pair in pairs]),
            asked=torch.tensor([label_id(pair.draw.label) for pair in pairs]),
            label_ids=torch.tensor([label_ids(pair.target.labels) for pair in pairs]),
            labels=[pair.draw.label for pair in pairs],
            keys=[pair.segment.key for pair in pairs],
            negatives=negatives,
            negative_gain=None
            if negatives is None
            else _padded([x.gains(x.draw.negatives) for x in pairs], negatives.shape[1]),
            skipped=tuple(skipped),
            bytes_read=bytes_read,
        )


def _read_excerpts(
    pair: Pair, excerpts: Sequence[Excerpt], chunks: np.ndarray, members: ShardMembers
) -> None:
    """Read into the first of ``chunks`` (excerpt, samples) int16; silence the others."""
    for place, (stem, start, semitones) in enumerate(excerpts):
        stem_id = pair.segment.stems[stem].stem_id
        if (chunk := pair.heard.get((start, stem_id))) is not None:
            chunks[place] = chunk
        elif not semitones:
            members.read_crop(pair.shard, pair.parts, stem_id, start, chunks[place])
        else:
            longer = np.empty(round(chunks.shape[1] * speed(semitones)), dtype=np.int16)
            members.read_crop(pair.shard, pair.parts, stem_id, start, longer)
            chunks[place] = resampled(longer, chunks.shape[1])
    chunks[len(excerpts) :] = 0


def resampled(chunk: np.ndarray, samples: int) -> np.ndarray:
    """Read a chunk (any,) int16 faster or slower, so that it has so many samples: int16.

    Linear between samples: a few dB are lost at the top, and what folds there stays far below.
    """
    waveform = torch.from_numpy(chunk).float()[None, None]
    read = F.interpolate(waveform, size=samples, mode="linear", align_corners=False)
    return read[0, 0].round().to(torch.int16).numpy()


def _padded(rows: Sequence[Sequence[float]], width: int) -> torch.Tensor:
    """Lay out rows of numbers: (row, width) float32, 0 where a row has no more."""
    padded = torch.zeros(len(rows), width)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.tensor(row)
    return padded


def _shareable(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Make an empty tensor; in a worker process in shared memory, so it is not copied out."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(dtype.itemsize * math.prod(shape))
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # pyright: ignore[reportCallIssue]


def label_ids(labels: Sequence[str]) -> list[int]:
    """Give the ids of a stem's labels as ``PairBatch.label_ids`` has them."""
    finest_first = list(labels[::-1]) or [MUSIC]
    padded = [*finest_first, *[finest_first[0]] * LABEL_LEVELS][:LABEL_LEVELS]
    return [label_id(label) for label in padded]


@lru_cache(maxsize=65_536)
def label_id(label: str) -> int:
    """Give a number that stands for a label in every process and corpus."""
    digest = hashlib.sha256(label.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
