"""What needs no training here: a stem's spectrum; and which models an evaluation compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ml.audio.mel import spectrum_vectors
from ml.labels.clap_files import ClapFiles, clap_files
from ml.models.stem_jepa import StemJepa, load_model
from ml.retrieval.embeddings.clap_audio import CLAP_AUDIO, ClapAudioModel

if TYPE_CHECKING:
    from ml.artifacts import DataLayout
    from ml.retrieval.embeddings.model import EmbeddingModel

SPECTRUM = "spectrum"
UNTRAINED = "untrained"
CONTRASTIVE = "contrastive"


class SpectrumModel(nn.Module):
    """Mean and deviation over frames of each log-mel bin, minus their mean over training stems.

    The same for stem and mix, and blind to the instrument: it finds stems by tone colour,
    brightness and noise floor. A model that has learned must do better.

    Args:
        checkpoint: whose frontend and training statistics are used (the contrastive one).
    """

    spectrum_mean: Tensor
    name = SPECTRUM
    phase = SPECTRUM
    condition_dim = None

    def __init__(self, checkpoint: StemJepa):
        super().__init__()
        self.model_id = f"{SPECTRUM}-{checkpoint.model_id}"
        self.rate_hz = checkpoint.rate_hz
        self.chunk_s = checkpoint.chunk_s
        self.label_encoder: Mapping[str, Any] = {}
        self.training_tracks: Sequence[Mapping[str, Any]] = checkpoint.training_tracks
        self.log_mel = checkpoint.log_mel
        self.register_buffer("spectrum_mean", checkpoint.spectrum_mean.detach().clone())

    @property
    def dim(self) -> int:
        """Twice the number of mel bins."""
        return len(self.spectrum_mean)

    @torch.inference_mode()
    def gallery_vectors(self, mel: Tensor) -> Tensor:
        """(batch, mel_bin, frame) → (batch, 2 · mel_bin), not of unit norm."""
        return spectrum_vectors(mel.float()) - self.spectrum_mean

    def query_vectors(
        self,
        mel: Tensor,
        condition: Tensor | None = None,  # noqa: ARG002
        classes: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """The same of a mix; condition and classes are ignored."""
        return self.gallery_vectors(mel)


def is_baseline(model: EmbeddingModel) -> bool:
    """Whether a model only shows what needs no training here; nobody queries it."""
    return model.name in (SPECTRUM, UNTRAINED, CLAP_AUDIO)


def load_models(
    layout: DataLayout, names: Sequence[str] | None = None, clap: ClapFiles | None = None
) -> list[EmbeddingModel]:
    """The models of this home, ``spectrum`` made from the contrastive one, and ``clap-audio``.

    Args:
        layout: where ``runs/models.json`` lies.
        names: which, in this order; default: all.
        clap: CLAP's files; without them there is no ``clap-audio``. Default: those that ``stems
            labels fetch`` gets.

    Raises:
        ArtifactError: nothing was trained yet, a checkpoint is damaged, or CLAP is asked for and
            missing.
        ValueError: no model has such a name.
    """
    from ml.training.models import read_models

    paths, clap = read_models(layout), clap or clap_files(layout.clap)
    if names and CLAP_AUDIO in names:
        clap.require()
    known = [
        *paths,
        *([SPECTRUM] if CONTRASTIVE in paths else []),
        *([] if clap.missing else [CLAP_AUDIO]),
    ]
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise ValueError(f"no model is called {unknown[0]!r}; expected one of: {', '.join(known)}")
    return [_load(name, paths, clap) for name in names or known]


def _load(name: str, paths: Mapping[str, Path], clap: ClapFiles) -> EmbeddingModel:
    if name == CLAP_AUDIO:
        return ClapAudioModel(clap)
    if name == SPECTRUM:
        return SpectrumModel(load_model(paths[CONTRASTIVE]))
    return load_model(paths[name])
