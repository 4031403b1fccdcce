"""``clap-audio``: what one gets off the shelf. CLAP's audio embeddings, without training.

Gallery: the mean of a stem's chunks, each embedded by CLAP's audio branch to unit norm. Query: the
same of the mix without the stem, plus CLAP's text embedding of the instrument (unit norm, weight
1). Both then get unit norm, as every model's vectors do. Audio and text share one space, so the sum
is near stems that sound like the mix and like the word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ml.labels.clap_audio import CLIP_S, RATE_HZ, ClapAudio, load_clap_audio
from ml.labels.clap_files import ClapFiles
from ml.labels.clap_text import CLAP_DIM, clap_text_encoder

CLAP_AUDIO = "clap-audio"


class ClapAudioModel(nn.Module):
    """CLAP as an ``EmbeddingModel``; weights are loaded at first use, where the model then is.

    Args:
        files: checkpoint and vocabulary.

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
