"""What probes are trained and scored on: tracks with beats and features, streamed from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ml.beats.feature_files import read_features

_STATISTICS_STEPS = 4_000


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeTrack:
    """A track with its beats and its features."""

    corpus: str
    track_id: str
    group: str | int | None
    """Its fold, or its split; None: it is never trained on."""
    beats: np.ndarray
    """(beat,) times in s."""
    features: Path
    """File of (layer, step, feature)."""
    steps: int
    """Length in steps of 160 ms."""
    frames: int
    """Length in frames of 20 ms: what lies beyond in the last step is padding."""

    def read(self, row: int) -> np.ndarray:
        """(step, feature) float16 of a layer by its place in the file."""
        return read_features(self.features, row)


class StepBlocks:
    """Steps of many tracks in blocks that fit in memory.

    Args:
        tracks: which.
        row: place of the layer in the features.
        labels: (step, 8) of a track.
        block_steps: largest number of steps in a block, but for a single longer track.
    """

    def __init__(
        self,
        tracks: Sequence[ProbeTrack],
        row: int,
        labels: Callable[[ProbeTrack], np.ndarray],
        *,
        block_steps: int,
    ):
        self._tracks, self._row, self._labels = tracks, row, labels
        self._block_steps = block_steps
        self.steps = sum(track.steps for track in tracks)
        self._whole: tuple[np.ndarray, np.ndarray] | None = None

    def blocks(
        self, order: Sequence[int] | np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features (step, feature) float16 and labels (step, 8) float32, block by block.

        Args:
            order: of the tracks; where all fit in one block, it is read once and kept as it is.
        """
        if self.steps <= self._block_steps:
            self._whole = self._whole or self._read(self._tracks)
            yield self._whole
            return
        pending: list[ProbeTrack] = []
        for place in range(len(self._tracks)) if order is None else order:
            track = self._tracks[place]
            if pending and sum(t.steps for t in pending) + track.steps > self._block_steps:
                yield self._read(pending)
                pending = []
            pending.append(track)
        yield self._read(pending)

    def batches(self, random: np.random.Generator, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All steps once, by random track and within blocks: (batch, feature), (batch, 8)."""
        for features, labels in self.blocks(random.permutation(len(self._tracks))):
            places = random.permutation(len(features))
            for first in range(0, len(places), size):
                chosen = places[first : first + size]
                yield torch.from_numpy(features[chosen]), torch.from_numpy(labels[chosen])

    def statistics(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Mean and deviation of each feature, (feature,) float32, and the mean label."""
        sums, squares, label_sum = 0.0, 0.0, 0.0
        for features, labels in self.blocks():
            label_sum += float(labels.mean(axis=1, dtype=np.float64).sum())
            for first in range(0, len(features), _STATISTICS_STEPS):
                part = features[first : first + _STATISTICS_STEPS].astype(np.float64)
                sums, squares = sums + part.sum(axis=0), squares + np.square(part).sum(axis=0)
        mean = np.asarray(sums) / self.steps
        variance = np.asarray(squares) / self.steps - mean**2
        deviation = np.sqrt(variance.clip(min=1e-8))
        share = min(max(label_sum / self.steps, 1e-4), 0.5)
        return mean.astype(np.float32), deviation.astype(np.float32), share

    def _read(self, tracks: Sequence[ProbeTrack]) -> tuple[np.ndarray, np.ndarray]:
        features = np.concatenate([track.read(self._row) for track in tracks])
        return features, np.concatenate([self._labels(track) for track in tracks])
