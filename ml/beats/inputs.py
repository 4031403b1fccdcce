"""What a beat probe can look at: layers of a frozen encoder, or the log-mel itself.

One row of features stands for one step of 160 ms: the patches of that time, the frequency rows
concatenated (DESIGN section 6; Riou et al., section III-E). The log-mel baseline has the same
steps: the 16 frames of a patch, all bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ml.artifacts import DataLayout
from ml.audio.mel import LogMel
from ml.models.stem_jepa import StemJepa, load_model
from ml.models.vit import ViTEncoder

LOG_MEL = "log-mel"
"""Name of the baseline that needs no encoder."""
UNTRAINED = "untrained"
"""Name of the encoder before its training."""
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
    def step_s(self) -> float:
        """Length of a step in seconds."""
        return self.step_frames * self.log_mel.config.hop_samples / self.rate_hz

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
        found = self.encoder.layer_patches(mel, self.layers)
        return {layer: patches.transpose(1, 2).flatten(2) for layer, patches in found.items()}


def encoder_input(model: StemJepa, layers: Sequence[int] | None = None) -> BeatInput:
    """The context encoder of a model.

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
    """The log-mel of a model's frontend, its 16 frames a step concatenated."""
    return BeatInput(
        name=LOG_MEL,
        model_id=f"{LOG_MEL}-{model.log_mel.fingerprint()[:32]}",
        log_mel=model.log_mel,
        chunk_s=model.chunk_s,
        step_frames=model.config.encoder.patch,
    )


def beat_inputs(
    layout: DataLayout,
    names: Sequence[str] = (),
    layers: Sequence[int] | None = None,
    device: str = "cpu",
) -> list[BeatInput]:
    """The encoders of the current models, and ``log-mel``.

    Args:
        layout: where ``runs/models.json`` lies.
        names: which, in this order; empty: all.
        layers: see ``encoder_input``.
        device: where to compute.

    Raises:
        ArtifactError: nothing was trained yet, or a checkpoint is damaged.
        ValueError: no model has such a name, or it has no such layer.
    """
    from ml.training.model_index import read_models

    paths = read_models(layout)
    known = [*paths, LOG_MEL]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no model is called {unknown[0]!r}; expected one of: {', '.join(known)}")
    found = []
    for name in names or known:
        # The frontend is measured once, before phase 1: all models of a home share it.
        model = load_model(paths[next(iter(paths)) if name == LOG_MEL else name], device)
        found.append(log_mel_input(model) if name == LOG_MEL else encoder_input(model, layers))
    return found
