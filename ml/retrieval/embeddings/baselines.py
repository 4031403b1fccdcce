"""The models that a person means, with the baselines that need no training.

``spectrum`` is made from the contrastive checkpoint (from ``starter`` where nothing was trained),
``untrained`` is where training began, and ``clap-audio`` is what one gets off the shelf. Its
gallery: the mean of a stem's chunks, each embedded by CLAP's audio branch to unit norm. Its query:
the same of the mix without the stem, plus CLAP's text embedding of the instrument (unit norm,
weight 1). Both then get unit norm, as every model's vectors do. Audio and text share one space, so
the sum is near stems that sound like the mix and like the word.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ml import kinds
from ml.artifacts import ArtifactError, read_manifest
from ml.audio.mel import spectrum_vectors
from ml.labels.clap import CLAP_DIM, CLIP_S, RATE_HZ, ClapAudio, clap_text_encoder, load_clap_audio
from ml.labels.clap_files import ClapFiles, clap_files
from ml.models.stem_jepa import StemJepa, load_model
from ml.retrieval.embeddings.model import check_label_encoder
from ml.training.models import (
    CONTRASTIVE,
    UNTRAINED,
    find_checkpoint,
    has_starter,
    read_models,
    refuse_namesakes,
)

if TYPE_CHECKING:
    from ml.artifacts import DataLayout
    from ml.retrieval.embeddings.model import EmbeddingModel

_log = logging.getLogger(__name__)
CLAP_AUDIO = "clap-audio"
SPECTRUM = "spectrum"
BASELINES = (UNTRAINED, SPECTRUM, CLAP_AUDIO)


class ClapAudioModel(nn.Module):
    """CLAP as an ``EmbeddingModel``; weights are loaded at first use, where the model then is.

    Raises:
        ArtifactError: one of them is missing.
    """

    place: Tensor
    name = CLAP_AUDIO
    phase = CLAP_AUDIO
    condition_dim = None  # none of the corpus's: it encodes labels itself
    part_shares = (1.0,)
    dim = CLAP_DIM
    rate_hz = RATE_HZ
    chunk_s = CLIP_S

    def __init__(self, files: ClapFiles):
        super().__init__()
        self.model_id = f"{CLAP_AUDIO}-{files.fingerprint()[:16]}"
        self.label_encoder: Mapping[str, Any] = {}
        self.training_tracks: Sequence[Mapping[str, Any]] = ()
        """LAION does not list what it trained on; it may have heard tracks of any corpus."""
        self.log_mel = ClapLogMel(self)
        self._files = files
        self._text = clap_text_encoder(files)
        self._audio: list[ClapAudio] = []
        self.register_buffer("place", torch.zeros(0), persistent=False)

    @property
    def audio(self) -> ClapAudio:
        """The audio branch, on the device of the model."""
        if not self._audio:
            self._audio.append(load_clap_audio(self._files.checkpoint))
        return self._audio[0].to(self.place.device)

    @torch.inference_mode()
    def gallery_vectors(self, mel: Tensor) -> Tensor:
        """Embed stems: (batch, mel_bin, frame) → (batch, 512) unit norm."""
        return self.audio(mel)

    @torch.inference_mode()
    def query_vectors(
        self,
        mel: Tensor,
        condition: Tensor | None = None,
        classes: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Embed mixes in the same way and add ``condition``: (batch, 512) of ``encode_labels``."""
        vectors = self.audio(mel)
        return vectors if condition is None else vectors + condition

    def encode_labels(self, texts: Sequence[str]) -> np.ndarray:
        """Encode labels by CLAP's text branch: (text, 512) float32, unit norm."""
        return self._text.encode(texts)


class ClapLogMel:
    """The frontend of a ``ClapAudioModel``: (batch, samples) at 48 kHz → (batch, 64, frame)."""

    def __init__(self, model: ClapAudioModel):
        self._model = [model]  # in a list: not a part of itself

    @torch.inference_mode()
    def __call__(self, waveform: Tensor, /) -> Tensor:
        """Compute the log-mel in dB."""
        return self._model[0].audio.log_mel(waveform)

    def fingerprint(self) -> str:
        """Name the filters: every checkpoint of LAION's holds the same."""
        return CLAP_AUDIO


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
    part_shares = (1.0,)

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
        """Embed log-mels: (batch, mel_bin, frame) → (batch, 2 · mel_bin), not of unit norm."""
        return spectrum_vectors(mel.float()) - self.spectrum_mean

    def query_vectors(
        self,
        mel: Tensor,
        condition: Tensor | None = None,  # noqa: ARG002
        classes: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Embed a mix in the same way; condition and classes are ignored."""
        return self.gallery_vectors(mel)


def is_baseline(model: EmbeddingModel) -> bool:
    """Tell whether a model only shows what needs no training here; nobody queries it."""
    return model.name in BASELINES


def load_models(
    layout: DataLayout,
    texts: Sequence[str] | None = None,
    clap: ClapFiles | None = None,
    tracking_uri: str = "",
) -> list[EmbeddingModel]:
    """Load the models of a home, or those that a person means.

    Args:
        layout: where ``runs/models.json`` lies.
        texts: which, in this order, each as ``open_model`` takes it; default: all that were trained
            here, with their baselines, or ``starter`` where none was.
        clap: CLAP's files; without them there is no ``clap-audio``. Default: those that ``stems
            labels fetch`` gets.
        tracking_uri: see ``find_model``.

    Raises:
        ArtifactError: nothing was trained yet and there is no ``starter``, there is no such model,
            a checkpoint is damaged, CLAP is asked for and missing, or two have one name.
    """
    clap = clap or clap_files(layout.clap)
    if not texts:
        is_new = _is_new(layout)
        texts = [name for name in model_names(layout, clap) if (name == kinds.STARTER) == is_new]
    models = [open_model(text, layout, clap, tracking_uri) for text in texts]
    refuse_namesakes((model.name, model.model_id) for model in models)
    return models


def fitting_models(
    models: Sequence[EmbeddingModel], layout: DataLayout, corpus: str
) -> list[EmbeddingModel]:
    """Leave out, with a warning each, models that know other conditions than a corpus has.

    Args:
        models: of a home, of several label encoders.
        layout: where the ``label_embeddings`` of the corpus lie.
        corpus: its name.

    Raises:
        ArtifactError: no model was trained with the label encoder of the corpus.
    """
    encoder = read_manifest(layout.labels(corpus), kinds.LABEL_EMBEDDINGS)["encoder"]
    fitting, errors = [], []
    for model in models:
        try:
            check_label_encoder(model, encoder)
            fitting.append(model)
        except ArtifactError as error:
            errors.append(error)
    if errors and not fitting:
        raise errors[0]
    for error in errors:
        _log.warning("left out of %s: %s", corpus, error)
    return fitting


def model_names(layout: DataLayout, clap: ClapFiles | None = None) -> list[str]:
    """Name all that can be embedded with: what was trained here, its baselines, ``starter``.

    Raises:
        ArtifactError: nothing was trained yet and there is no ``starter``.
    """
    trained = {} if _is_new(layout) else read_models(layout)
    return [
        *trained,
        *([SPECTRUM] if CONTRASTIVE in trained or not trained else []),
        *([] if (clap or clap_files(layout.clap)).missing else [CLAP_AUDIO]),
        *([kinds.STARTER] if has_starter() else []),
    ]


def _is_new(layout: DataLayout) -> bool:
    """Tell whether ``starter`` is all that a home has."""
    return has_starter() and not layout.models_index.is_file()


def open_model(
    text: str, layout: DataLayout, clap: ClapFiles | None = None, tracking_uri: str = ""
) -> EmbeddingModel:
    """Load the model that a person means.

    Args:
        text: what ``find_model`` takes, or ``spectrum`` or ``clap-audio``, alone or with the rest
            of its model_id.
        layout: where models lie.
        clap: CLAP's files; None: those of the home.
        tracking_uri: see ``find_model``.

    Raises:
        ArtifactError: there is no such model, or its files are missing or damaged.
    """
    if text == CLAP_AUDIO or text.startswith(f"{CLAP_AUDIO}-"):
        return ClapAudioModel(clap or clap_files(layout.clap))
    if text == SPECTRUM:
        text = f"{SPECTRUM}-{kinds.STARTER if _is_new(layout) else CONTRASTIVE}"
    checkpoint = find_checkpoint(layout, text.removeprefix(f"{SPECTRUM}-"), tracking_uri)
    model = load_model(checkpoint)
    return SpectrumModel(model) if text.startswith(f"{SPECTRUM}-") else model
