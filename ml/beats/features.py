"""Features of whole tracks for beat probes (Riou et al., section III-E).

An *input* is what a probe looks at: layers of a frozen encoder, or the log-mel itself. One row of
features stands for one *step* of 160 ms: the patches of that time, the frequency rows concatenated.
The log-mel baseline has the same steps: the 16 frames of a patch, all bins.

The log-mel is that of the whole file; the encoder sees it in *chunks* that overlap, and of each
overlap the half nearer to a chunk's middle is kept, so that no step lies near a border unless the
track ends there. Positions and attention span the chunk, so a step's features depend on where the
borders fall (by 0.7 of their deviation on demo songs), but no more at a seam than elsewhere, and
probes see past it (their activations move by 0.01). Means per place in the chunk do not help.

Features as files: ``ml.beats.feature_files``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ml.artifacts import DataLayout
from ml.audio.mel import LogMel
from ml.device import Precision, autocast
from ml.models.stem_jepa import StemJepa, load_model
from ml.models.vit import ViTEncoder

LOG_MEL = "log-mel"
"""Name of the baseline that needs no encoder."""
DEFAULT_LAYERS = (-2, -1)
"""The last layer but one, and the last."""


@dataclass(frozen=True, kw_only=True)
class BeatInput:
    """A frozen function from a log-mel to features per step."""

    name: str
    """What tables call it."""
    model_id: str
    """Fingerprint of what is computed, but for the layers."""
    log_mel: LogMel
    """The frontend."""
    chunk_s: float
    """How much the encoder sees at once."""
    step_frames: int
    """Frames of a step: the side of a patch."""
    encoder: ViTEncoder | None = None
    """The context encoder; None: the log-mel itself."""
    layers: tuple[int, ...] = (0,)
    """Which layers, as ``ViTEncoder.layer_patches`` counts them."""

    @property
    def feature_dim(self) -> int:
        """Width of a row of features."""
        if self.encoder is None:
            return self.log_mel.config.mel_bins * self.step_frames
        config = self.encoder.config
        return config.mel_bins // config.patch * config.dim

    @property
    def rate_hz(self) -> int:
        """Sample rate of waveforms."""
        return self.log_mel.config.rate_hz

    @property
    def frame_s(self) -> float:
        """Length of a frame of the log-mel in seconds."""
        return self.log_mel.config.hop_samples / self.rate_hz

    @property
    def step_s(self) -> float:
        """Length of a step in seconds."""
        return self.step_frames * self.frame_s

    @property
    def chunk_steps(self) -> int:
        """Steps that the encoder sees at once."""
        config = self.log_mel.config
        return round(self.chunk_s * config.rate_hz) // config.hop_samples // self.step_frames

    def features(self, mel: Tensor) -> dict[int, Tensor]:
        """Features of chunks.

        Args:
            mel: (batch, mel_bin, frame), frames a multiple of ``step_frames``.

        Returns:
            Layer → (batch, step, feature).
        """
        if self.encoder is None:
            steps = mel.unflatten(-1, (-1, self.step_frames))  # (batch, mel_bin, step, frame)
            return {0: steps.transpose(1, 2).flatten(2)}
        by_layer = self.encoder.layer_patches(mel, self.layers)
        return {layer: patches.transpose(1, 2).flatten(2) for layer, patches in by_layer.items()}


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """How tracks are cut for the encoder."""

    edge_share: float = 0.125
    """Share of a chunk that is discarded at each side where another chunk goes on: 1 s of 8 s."""
    batch_chunks: int = 32
    """Chunks in a batch; decides the memory a long track needs, not the features."""
    precision: Precision = "bf16"
    """``bf16`` computes encoders in autocast."""

    def __post_init__(self) -> None:
        if not 0 <= self.edge_share < 0.5 or self.batch_chunks < 1:
            raise ValueError(
                f"edge_share={self.edge_share}, batch_chunks={self.batch_chunks}: expected "
                "0 <= edge_share < 0.5 and at least 1 chunk"
            )


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A chunk in steps of its track: what the encoder sees, and what is kept of it."""

    start: int
    """First step that the encoder sees."""
    first: int
    """First step that is kept."""
    stop: int
    """Step after the last that is kept."""


def encoder_input(model: StemJepa, layers: Sequence[int] | None = None) -> BeatInput:
    """Take the context encoder of a model.

    Args:
        model: a loaded checkpoint.
        layers: which; negative ones count from the last. Default: ``DEFAULT_LAYERS``.

    Raises:
        ValueError: the encoder has no such layer.
    """
    last = model.config.encoder.layers
    asked = layers or DEFAULT_LAYERS
    chosen = sorted({layer + last + 1 if layer < 0 else layer for layer in asked})
    if wrong := [layer for layer in chosen if not 0 <= layer <= last]:
        raise ValueError(
            f"layer {wrong[0]} of model {model.name}: expected 0 to {last}, or -1 (the last) to "
            f"{-last - 1}"
        )
    return BeatInput(
        name=model.name,
        model_id=model.model_id,
        log_mel=model.log_mel,
        chunk_s=model.chunk_s,
        step_frames=model.config.encoder.patch,
        encoder=model.encoder,
        layers=tuple(chosen),
    )


def log_mel_input(model: StemJepa) -> BeatInput:
    """Take the log-mel of a model's frontend, its 16 frames a step concatenated."""
    return BeatInput(
        name=LOG_MEL,
        model_id=f"{LOG_MEL}-{model.log_mel.fingerprint()[:32]}",
        log_mel=model.log_mel,
        chunk_s=model.chunk_s,
        step_frames=model.config.encoder.patch,
    )


def beat_inputs(
    layout: DataLayout,
    texts: Sequence[str] = (),
    layers: Sequence[int] | None = None,
    device: str = "cpu",
    tracking_uri: str = "",
) -> list[BeatInput]:
    """Load the encoders of models, and ``log-mel``.

    Args:
        layout: where ``runs/models.json`` lies.
        texts: which, in this order, as ``find_model`` takes them; empty: the current ones.
        layers: see ``encoder_input``.
        device: where to compute.
        tracking_uri: see ``find_model``.

    Raises:
        ArtifactError: nothing was trained yet, there is no such model, a checkpoint is damaged, or
            two have one name.
        ValueError: a model has no such layer.
    """
    from ml.training.models import find_checkpoint, read_models, refuse_namesakes

    inputs = []
    for text in texts or [*read_models(layout), LOG_MEL]:
        # The frontend is measured once, before phase 1: all models of a home share it.
        of = next(iter(read_models(layout))) if text == LOG_MEL else text
        model = load_model(find_checkpoint(layout, of, tracking_uri), device)
        inputs.append(log_mel_input(model) if text == LOG_MEL else encoder_input(model, layers))
    refuse_namesakes((source.name, source.model_id) for source in inputs)
    return inputs


def track_features(
    inputs: Sequence[BeatInput], waveform: np.ndarray, config: FeatureConfig | None = None
) -> Iterator[tuple[BeatInput, slice, dict[int, Tensor]]]:
    """Compute the features of a waveform, block by block.

    Args:
        inputs: what to compute; the log-mel is shared by those with the same frontend.
        waveform: (samples,) float32 at the inputs' rate; of any length above 0.
        config: how it is cut.

    Yields:
        An input, the steps of the block, and its layers → (step, feature) float16 on the CPU. The
        blocks of an input follow each other without gaps from step 0 to ``step_count``.
    """
    config = config or FeatureConfig()
    for group in _groups(inputs):
        yield from _group_features(group, waveform, config)


def frame_count(log_mel: LogMel, samples: int) -> int:
    """Count the frames of the log-mel of a file; at least 1."""
    return max(1, samples // log_mel.config.hop_samples)


def step_count(source: BeatInput, samples: int) -> int:
    """Count the steps of a file: one for each (begun) patch."""
    return -(-frame_count(source.log_mel, samples) // source.step_frames)


def chunk_plan(steps: int, chunk_steps: int, edge_steps: int) -> list[Chunk]:
    """Cut a track into chunks; the last one is aligned to its end.

    A short track is one chunk. Seams lie in the middle of what two chunks share, at least
    ``edge_steps`` inside both.
    """
    last = max(0, steps - chunk_steps)
    starts = [*range(0, last, chunk_steps - 2 * edge_steps), last]
    seams = [(before + after + chunk_steps) // 2 for before, after in pairwise(starts)]
    kept = pairwise([0, *seams, steps])
    return [
        Chunk(start=start, first=first, stop=stop)
        for start, (first, stop) in zip(starts, kept, strict=True)
    ]


def mel_between(log_mel: LogMel, waveform: Tensor, first: int, stop: int) -> Tensor:
    """Compute frames ``first`` … ``stop - 1`` of the log-mel of a whole waveform.

    Args:
        log_mel: the frontend.
        waveform: (samples,), at least one window long.
        first: the first frame.
        stop: at most the number of frames.

    Returns:
        (mel_bin, frame), computed from the samples that these frames need and no others.
    """
    hop = log_mel.config.hop_samples
    margin = -(-log_mel.config.window_samples // (2 * hop))  # frames whose window a cut touches
    begin = max(0, first - margin)
    piece = waveform[begin * hop : (stop + margin) * hop]
    return log_mel(piece[None])[0, :, first - begin : stop - begin]


def _groups(inputs: Sequence[BeatInput]) -> list[list[BeatInput]]:
    """Group inputs that see the same chunks of the same log-mel."""
    groups: dict[tuple[str, int], list[BeatInput]] = {}
    for source in inputs:
        key = source.log_mel.fingerprint(), source.chunk_steps
        groups.setdefault(key, []).append(source)
    return list(groups.values())


def _group_features(
    group: Sequence[BeatInput], waveform: np.ndarray, config: FeatureConfig
) -> Iterator[tuple[BeatInput, slice, dict[int, Tensor]]]:
    log_mel, step_frames = group[0].log_mel, group[0].step_frames
    frames = frame_count(log_mel, len(waveform))
    steps = step_count(group[0], len(waveform))
    chunk_steps = group[0].chunk_steps
    plan = chunk_plan(steps, chunk_steps, int(config.edge_share * chunk_steps))
    device = log_mel.floor.device
    sound = torch.from_numpy(waveform)
    sound = F.pad(sound, (0, max(0, log_mel.config.window_samples - len(sound))))
    for place in range(0, len(plan), config.batch_chunks):
        batch = plan[place : place + config.batch_chunks]
        begin, end = batch[0].start * step_frames, (batch[-1].start + chunk_steps) * step_frames
        with torch.inference_mode(), autocast(device, config.precision):
            mel = mel_between(log_mel, sound.to(device), begin, min(end, frames))
            # Beyond the end of the track lies 0, its mean after standardisation.
            mel = F.pad(mel, (0, end - begin - mel.shape[-1]))
            offsets = [chunk.start * step_frames - begin for chunk in batch]
            chunks = torch.stack([mel[:, o : o + chunk_steps * step_frames] for o in offsets])
            for source in group:
                layers = source.features(chunks)
                kept = {layer: _kept(values, batch) for layer, values in layers.items()}
                yield source, slice(batch[0].first, batch[-1].stop), kept


def _kept(values: Tensor, batch: Sequence[Chunk]) -> Tensor:
    """Keep of (chunk, step, feature) the steps that are kept: (step, feature) float16."""
    rows = [
        value[chunk.first - chunk.start : chunk.stop - chunk.start]
        for value, chunk in zip(values, batch, strict=True)
    ]
    return torch.cat(rows).to("cpu", torch.float16)
