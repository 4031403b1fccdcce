"""Linear probes on frozen features, one for each 20 ms of a step: eight for one of 160 ms.

Of P probes, probe j's activation of step k is frame n = P·k + j of the track, at n / 50 s; there is
no shift by half a frame (Riou et al., section III-E, with patches of 160 ms and P = 8). Probes on
the same features are one linear map with P outputs. They are trained on tracks with beats and
features, streamed from disk. Which tracks those are: ``ml.beats.probes``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ml.beats.feature_files import read_features
from ml.corpora.readers.beats import beat_frames

FPS = 50
"""Activations per second."""
_ROWS = 4_000
"""Steps at a time in float32."""


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
    """Length in steps of the features."""
    probes: int
    """Activations per step (``probes_per_step``)."""
    frames: int
    """Length in frames of 20 ms: what lies beyond in the last step is padding."""

    def read(self, row: int) -> np.ndarray:
        """(step, feature) float16 of a layer by its place in the file."""
        return read_features(self.features, row)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How probes are trained."""

    neighbour_weights: tuple[float, ...] = (0.5,)
    """Labels of the frames beside a beat, from near to far: one frame at 0.5 (widened labels).
    The paper does not say."""
    positive_weight: float = 1.0
    """How much a beat counts against a frame without one, of which there are 12 times as many.
    With 1 the activations are probabilities, as the network expects, and the bias starts at the
    share of beats. On demo songs for training, 3 gained 0.3 points of the network's F-measure and
    lost 0.3 of the peaks'; 12 lost in both."""
    learning_rate: float = 3e-3
    """Of Adam, at first; falls to 0 as a cosine over ``epochs``."""
    batch_steps: int = 512
    """Steps in a batch."""
    epochs: int = 12
    """At most; the best on the validation tracks is kept."""
    patience: int = 4
    """Epochs without a better validation loss before training stops."""
    block_steps: int = 100_000
    """Steps in memory at once, shuffled among each other: 4 hours, 0.8 GB of the widest encoder."""
    seed: int = 0
    """Of the order of tracks and steps."""

    def __post_init__(self) -> None:
        weights = self.neighbour_weights
        if not all(0 < weight <= 1 for weight in weights) or list(weights) != sorted(
            weights, reverse=True
        ):
            raise ValueError(f"neighbour_weights={weights}: expected falling numbers in 0…1")
        counts = (self.batch_steps, self.epochs, self.patience, self.block_steps)
        if min(counts) < 1 or self.positive_weight <= 0 or self.learning_rate <= 0:
            raise ValueError(
                f"batch_steps, epochs, patience, block_steps = {counts}, positive_weight = "
                f"{self.positive_weight}, learning_rate = {self.learning_rate}: expected at least "
                "1, and numbers above 0"
            )


class BeatProbe(nn.Module):
    """Standardisation by training tracks, then a linear map for each probe.

    Args:
        feature_dim: width of a row of features.
        probes: activations per step.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, feature_dim: int, probes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("deviation", torch.ones(feature_dim))
        self.linear = nn.Linear(feature_dim, probes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(step, feature) to logits (step, probe)."""
        return self.linear((features.float() - self.mean) / self.deviation)

    @torch.inference_mode()
    def activation(self, features: np.ndarray, frames: int) -> np.ndarray:
        """Compute the activation of a track.

        Args:
            features: (step, feature).
            frames: length of the track in frames of 20 ms; what lies beyond is padding.

        Returns:
            (frame,) float64, 0…1; frame n is at n / 50 s.
        """
        starts = range(0, len(features), _ROWS)
        parts = (features[start : start + _ROWS].astype(np.float32) for start in starts)
        logits = torch.cat([self(torch.from_numpy(part)) for part in parts])
        return torch.sigmoid(logits.double()).flatten()[:frames].numpy()


@dataclass(frozen=True, kw_only=True)
class TrainedProbe:
    """A probe and how its training went."""

    probe: BeatProbe
    row: int
    """Place of its layer in the features."""
    valid_loss: float
    """NaN without validation tracks."""
    epochs: int
    """After which it was taken."""


def probes_per_step(step_s: float) -> int:
    """Count the activations of a step.

    Raises:
        ValueError: the step is no multiple of 20 ms.
    """
    probes = round(step_s * FPS)
    if probes < 1 or not math.isclose(probes, step_s * FPS):
        raise ValueError(f"a step of features lasts {step_s} s; expected a multiple of {1 / FPS} s")
    return probes


def frame_labels(
    beats: np.ndarray, steps: int, probes: int, neighbour_weights: Sequence[float] = ()
) -> np.ndarray:
    """Make the targets of the probes.

    Args:
        beats: (beat,) times in s.
        steps: length of the track; beats beyond are left out.
        probes: activations per step.
        neighbour_weights: labels of the frames beside a beat; where two beats meet, the larger.

    Returns:
        (step, probe) float32, 0…1.
    """
    labels = np.zeros(steps * probes, dtype=np.float32)
    centres = beat_frames(beats, FPS)
    for distance, weight in reversed([*enumerate((1.0, *neighbour_weights))]):
        for frames in (centres - distance, centres + distance):
            labels[frames[(frames >= 0) & (frames < len(labels))]] = weight
    return labels.reshape(steps, probes)


def train_probe(
    train: Sequence[ProbeTrack],
    valid: Sequence[ProbeTrack],
    row: int,
    config: ProbeConfig,
    *,
    epochs: int | None = None,
) -> TrainedProbe:
    """Train the probes of one layer.

    Args:
        train: whose steps are learned from; standardisation is measured on them.
        valid: whose loss says when to stop; empty: trained for ``epochs``.
        row: place of the layer in the features.
        config: how.
        epochs: when to stop without validation tracks, on the same course of the learning rate;
            default: after all.

    Returns:
        The probe at its best validation loss; equal for equal arguments.

    Raises:
        ValueError: there is nothing to train on, or tracks have steps of different lengths.
    """
    if not train:
        raise ValueError("there are no tracks to train a beat probe on; expected at least one")
    if len(counts := {track.probes for track in (*train, *valid)}) > 1:
        raise ValueError(f"tracks have {sorted(counts)} activations a step; expected one number")
    blocks, checked = (StepBlocks(tracks, row, config) for tracks in (train, valid))
    random = np.random.default_rng(config.seed)
    probe = _initial(blocks, train[0].probes)
    optimizer = torch.optim.Adam(probe.parameters(), lr=config.learning_rate)
    weight = torch.tensor(config.positive_weight)
    best = TrainedProbe(probe=probe, row=row, valid_loss=math.nan, epochs=0)
    for epoch in range(1, (config.epochs if epochs is None or valid else epochs) + 1):
        _train_epoch(probe, optimizer, blocks, random, config, weight, epoch)
        loss = _loss(probe, checked, weight) if valid else math.nan
        if not loss >= best.valid_loss:
            kept = copy.deepcopy(probe) if valid else probe
            best = TrainedProbe(probe=kept, row=row, valid_loss=loss, epochs=epoch)
        elif epoch - best.epochs >= config.patience:
            break
    best.probe.eval().requires_grad_(False)
    return best


def _initial(blocks: StepBlocks, probes: int) -> BeatProbe:
    """Start from zero weights, the bias at the share of beats, standardisation by these tracks."""
    mean, deviation, share = blocks.statistics()
    probe = BeatProbe(len(mean), probes)
    probe.mean.copy_(torch.from_numpy(mean))
    probe.deviation.copy_(torch.from_numpy(deviation))
    nn.init.constant_(probe.linear.bias, math.log(share / (1 - share)))
    return probe


def _train_epoch(
    probe: BeatProbe,
    optimizer: torch.optim.Optimizer,
    blocks: StepBlocks,
    random: np.random.Generator,
    config: ProbeConfig,
    weight: Tensor,
    epoch: int,
) -> None:
    done = 0
    for features, labels in blocks.batches(random, config.batch_steps):
        at = (epoch - 1 + done / blocks.steps) / config.epochs  # 0…1 of the whole course
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, at)))
        loss = F.binary_cross_entropy_with_logits(probe(features), labels, pos_weight=weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done += len(features)


@torch.no_grad()
def _loss(probe: BeatProbe, blocks: StepBlocks, weight: Tensor) -> float:
    total = 0.0
    for features, labels in blocks.blocks():
        for first in range(0, len(features), _ROWS):
            part = slice(first, first + _ROWS)
            logits = probe(torch.from_numpy(features[part]))
            targets = torch.from_numpy(labels[part])
            total += F.binary_cross_entropy_with_logits(
                logits, targets, pos_weight=weight, reduction="sum"
            ).item()
    return total / (blocks.steps * probe.linear.out_features)


class StepBlocks:
    """Steps of many tracks in blocks that fit in memory.

    Args:
        tracks: which.
        row: place of the layer in the features.
        config: how wide labels are, and how many steps a block has; a longer track is a block.
    """

    def __init__(self, tracks: Sequence[ProbeTrack], row: int, config: ProbeConfig):
        self._tracks, self._row, self._config = tracks, row, config
        self.steps = sum(track.steps for track in tracks)
        self._whole: tuple[np.ndarray, np.ndarray] | None = None

    def blocks(
        self, order: Sequence[int] | np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features (step, feature) float16 and labels (step, probe) float32, block by block.

        Args:
            order: of the tracks; where all fit in one block, it is read once and kept as it is.
        """
        if self.steps <= self._config.block_steps:
            self._whole = self._whole or self._read(self._tracks)
            yield self._whole
            return
        pending: list[ProbeTrack] = []
        for place in range(len(self._tracks)) if order is None else order:
            track = self._tracks[place]
            if pending and sum(t.steps for t in pending) + track.steps > self._config.block_steps:
                yield self._read(pending)
                pending = []
            pending.append(track)
        yield self._read(pending)

    def batches(self, random: np.random.Generator, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All steps once, by random track and within blocks: (batch, feature), (batch, probe)."""
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
            for first in range(0, len(features), _ROWS):
                part = features[first : first + _ROWS].astype(np.float64)
                sums, squares = sums + part.sum(axis=0), squares + np.square(part).sum(axis=0)
        mean = np.asarray(sums) / self.steps
        variance = np.asarray(squares) / self.steps - mean**2
        deviation = np.sqrt(variance.clip(min=1e-8))
        share = min(max(label_sum / self.steps, 1e-4), 0.5)
        return mean.astype(np.float32), deviation.astype(np.float32), share

    def _read(self, tracks: Sequence[ProbeTrack]) -> tuple[np.ndarray, np.ndarray]:
        features = np.concatenate([track.read(self._row) for track in tracks])
        weights = self._config.neighbour_weights
        labels = [frame_labels(t.beats, t.steps, t.probes, weights) for t in tracks]
        return features, np.concatenate(labels)
