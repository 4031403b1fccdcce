"""The model as it is trained, saved and queried: frontend, encoder, target encoder, predictor.

One class for both phases (Riou et al., section II): without a predictor it is the contrastive
model of phase 1, with one it is the JEPA of phase 2.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ml.artifacts import ArtifactError, read_json, read_manifest
from ml.audio.activity import ActivityConfig, active_intervals
from ml.audio.chunks import MIN_ACTIVE_S, active_starts
from ml.audio.mel import LogMel
from ml.corpora.taxonomy import FOUR_CLASSES, four_class
from ml.models.config import StemJepaConfig
from ml.models.label_encoders import LabelEncoder, build_label_encoder
from ml.models.predictor import build_predictor
from ml.models.vit import ViTEncoder
from ml.plain import dataclass_from

FORMAT_VERSION = 1
_MEAN_MOMENTUM = 0.99


class StemJepa(nn.Module):
    """Encoder, and in phase 2 target encoder and predictor, with the running means they need.

    Buffers, running means over training batches: ``context_mean`` (dim,), pooled embeddings of
    mixes; ``target_mean`` (freq_patch, time_patch, dim), patches of stems by their place;
    ``spectrum_mean`` (2 · mel_bin,), see ``ml.audio.mel``.
    """

    context_mean: Tensor
    target_mean: Tensor
    mean_updates: Tensor
    spectrum_mean: Tensor

    def __init__(self, config: StemJepaConfig) -> None:
        super().__init__()
        self.config = config
        self.manifest: dict[str, Any] = {}
        self._encoder_of_labels: LabelEncoder | None = None
        self.log_mel = LogMel(config.log_mel)
        self.encoder = ViTEncoder(config.encoder)
        self.predictor = None if config.predictor is None else build_predictor(config.predictor)
        self.target_encoder = None if config.predictor is None else copy.deepcopy(self.encoder)
        if self.target_encoder is not None:
            self.target_encoder.requires_grad_(False)
        self.register_buffer("context_mean", torch.zeros(config.encoder.dim))
        self.register_buffer("target_mean", torch.zeros(config.patch_grid))
        self.register_buffer("mean_updates", torch.zeros(()))
        self.register_buffer("spectrum_mean", torch.zeros(2 * config.log_mel.mel_bins))

    # What a checkpoint says of itself.

    @property
    def name(self) -> str:
        """The preset it was trained with (``contrastive``, ``film``, ``film-nce``, …)."""
        return self.manifest.get("name", self.config.phase)

    @property
    def model_id(self) -> str:
        """Content fingerprint of the checkpoint it was loaded from."""
        return self.manifest.get("model_id", "unsaved")

    @property
    def phase(self) -> str:
        """``contrastive`` or ``jepa``."""
        return self.config.phase

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.config.encoder.dim

    @property
    def condition_dim(self) -> int | None:
        """Width of a condition; None when the model takes none."""
        predictor = self.config.predictor
        if predictor is None or predictor.conditioning not in ("film", "concat"):
            return None
        return predictor.condition_dim

    @property
    def rate_hz(self) -> int:
        """Sample rate of waveforms."""
        return self.config.log_mel.rate_hz

    @property
    def chunk_s(self) -> float:
        """Length of a chunk in seconds."""
        return self.config.chunk_s

    @property
    def label_encoder(self) -> dict[str, Any]:
        """``name``, ``dim`` and ``fingerprint`` of the label encoder it was trained with."""
        return self.manifest.get("label_encoder", {})

    @property
    def training_tracks(self) -> list[dict[str, Any]]:
        """``{corpus, track_id, content_hash}`` of the tracks it has seen, phase 1 included."""
        return self.manifest.get("training_tracks", [])

    # Training.

    def target_patches(self, mel: Tensor) -> Tensor:
        """Target patches of phase 2 before normalisation, without gradient.

        Args:
            mel: (batch, mel_bin, frame).

        Returns:
            (batch, freq_patch, time_patch, dim).
        """
        assert self.target_encoder is not None
        with torch.no_grad():
            return self.target_encoder(mel)

    def normalise_target(self, patches: Tensor) -> Tensor:
        """N of the loss and of the gallery, before the L2 norm.

        Args:
            patches: (batch, freq_patch, time_patch, dim).

        Returns:
            (batch, patch, dim) float32.
        """
        patches = patches.float()
        if self.config.target_norm == "standardise":
            return F.layer_norm(patches, patches.shape[-1:]).flatten(1, 2)
        return (patches - self._target_mean(patches.shape[2])).flatten(1, 2)

    def _target_mean(self, time_patches: int) -> Tensor:
        """``target_mean`` truncated, or continued by its mean over time, to a length."""
        mean = self.target_mean[:, :time_patches]
        if (missing := time_patches - mean.shape[1]) > 0:
            beyond = self.target_mean.mean(1, keepdim=True).expand(-1, missing, -1)
            mean = torch.cat([mean, beyond], dim=1)
        return mean

    @torch.no_grad()
    def update_means(self, *, target: Tensor, context: Tensor | None = None) -> None:
        """Move the running means towards the means of a batch.

        The first updates average all batches seen so far, later ones forget with momentum 0.99.

        Args:
            target: (batch, freq_patch, time_patch, dim), patches of stems.
            context: (batch, dim), pooled embeddings of mixes; None: their mean stays.
        """
        momentum = torch.clamp(self.mean_updates / (self.mean_updates + 1), max=_MEAN_MOMENTUM)
        self.target_mean.lerp_(target.float().mean(0), 1 - momentum)
        if context is not None:
            self.context_mean.lerp_(context.float().mean(0), 1 - momentum)
        self.mean_updates += 1

    # Embedding.

    @torch.inference_mode()
    def gallery_vectors(self, mel: Tensor) -> Tensor:
        """Embeddings of stems, one per chunk.

        Args:
            mel: (batch, mel_bin, frame), from ``log_mel``.

        Returns:
            (batch, dim) float32: the mean over patches of N(patch), not of unit norm. Phase 1: the
            pooled embedding minus ``target_mean``.
        """
        if self.target_encoder is None:
            return self._pooled(mel) - self.target_mean.mean((0, 1))
        patches = self.normalise_target(self.target_patches(mel))
        return F.normalize(patches, dim=-1).mean(1)

    @torch.inference_mode()
    def query_vectors(
        self, mel: Tensor, condition: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Embeddings of the stems that a mix lacks, one per chunk.

        Args:
            mel: (batch, mel_bin, frame) of the mix.
            condition: (batch, condition_dim), the instrument; ignored in phase 1.
            classes: (batch,) index into ``FOUR_CLASSES``, for conditioning ``class``.

        Returns:
            (batch, dim) float32, not of unit norm.
        """
        if self.predictor is None:
            return self._pooled(mel) - self.context_mean
        predicted = self.predictor(self.encoder(mel).flatten(1, 2), condition, classes)
        return F.normalize(predicted.float(), dim=-1).mean(1)

    @torch.inference_mode()
    def embed_stem(self, waveform: Tensor | np.ndarray) -> Tensor:
        """Gallery embedding of a whole stem.

        Args:
            waveform: (samples,) at ``rate_hz``, full scale ±1.

        Returns:
            (dim,) float32, unit norm.

        Raises:
            ValueError: the stem is silent or shorter than 0.25 s.
        """
        chunks = self._active_chunks(waveform)
        rows = torch.cat([self.gallery_vectors(self.log_mel(chunk[None])) for chunk in chunks])
        return F.normalize(rows.mean(0), dim=0)

    @torch.inference_mode()
    def predict(self, waveform: Tensor | np.ndarray, instrument: str) -> Tensor:
        """Embedding of the stem that would fit with a mix (``embed_stem``'s space).

        Args:
            waveform: (samples,) of the mix at ``rate_hz``.
            instrument: what the stem should play, free text.

        Returns:
            (dim,) float32, unit norm.

        Raises:
            ValueError: the mix is silent or shorter than 0.25 s, or the text is empty.
        """
        chunks = self._active_chunks(waveform)
        condition, classes = self._condition(instrument)
        rows = [self.query_vectors(self.log_mel(c[None]), condition, classes) for c in chunks]
        return F.normalize(torch.cat(rows).mean(0), dim=0)

    def _pooled(self, mel: Tensor) -> Tensor:
        return self.encoder(mel).flatten(1, 2).float().mean(1)

    def _condition(self, instrument: str) -> tuple[Tensor | None, Tensor | None]:
        device = self.target_mean.device
        classes = torch.tensor([FOUR_CLASSES.index(four_class([instrument]))], device=device)
        if self.condition_dim is None:
            return None, classes
        if self._encoder_of_labels is None:
            self._encoder_of_labels = build_label_encoder(self.label_encoder["name"])
        encoder = self._encoder_of_labels
        if encoder.fingerprint != self.label_encoder["fingerprint"]:
            raise ArtifactError(
                f"the model was trained with label encoder {self.label_encoder}, but here "
                f"{encoder.name} has fingerprint {encoder.fingerprint}; install the same version"
            )
        return torch.from_numpy(encoder.encode([instrument])).to(device), classes

    def _active_chunks(self, waveform: Tensor | np.ndarray) -> list[Tensor]:
        samples = np.asarray(waveform, dtype=np.float32)
        if samples.ndim != 1:
            raise ValueError(f"waveform has shape {samples.shape}, expected (samples,)")
        intervals = active_intervals(samples, self.rate_hz, ActivityConfig())
        size = round(self.chunk_s * self.rate_hz)
        starts = active_starts(intervals, len(samples), size, self.rate_hz)
        if not starts:
            raise ValueError(
                f"the waveform ({len(samples) / self.rate_hz:.2f} s) is silent or too short; "
                f"expected at least {MIN_ACTIVE_S} s of sound at {self.rate_hz} Hz"
            )
        chunks = [torch.from_numpy(samples[start : start + size]) for start in starts]
        return [chunk.to(self.target_mean.device) for chunk in chunks]


def load_model(path: str | Path, device: str = "cpu") -> StemJepa:
    """Load a checkpoint folder for embedding and queries.

    Args:
        path: the folder with ``config.json``, ``model.safetensors`` and ``manifest.json``.
        device: where the model goes.

    Raises:
        ArtifactError: a file is missing or damaged, or weights do not fit the configuration.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    manifest = read_manifest(path, format_version=FORMAT_VERSION, made_by="stems train")
    config = dataclass_from(StemJepaConfig, read_json(path / "config.json")["model"])
    model = StemJepa(config)
    weights = path / "model.safetensors"
    try:
        model.load_state_dict(load_file(weights, device="cpu"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(
            f"{weights} does not hold the weights that config.json beside it describes: {error}; "
            "train again with: stems train"
        ) from None
    model.manifest = manifest
    return model.to(device).eval().requires_grad_(False)
