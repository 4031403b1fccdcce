"""CLAP's audio branch: the network of ``laion_clap``, with weights that we load ourselves.

``laion_clap``'s own ``load_ckpt`` unpickles freely and its ``CLAP_Module`` downloads a RoBERTa to
overwrite it; neither is used. Of the package we take HTSAT (Chen et al., ICASSP 2022) and the rule
for what goes into it: clips of 10 s at 48 kHz, rounded to 16 bits; a shorter one is repeated as
often as it fits whole, then padded with silence.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ml.artifacts import ArtifactError
from ml.labels.clap_text import CLAP_DIM
from ml.labels.clap_weights import load_clap_weights, read_clap_weights

RATE_HZ = 48_000
CLIP_S = 10.0
"""What the network sees at a time."""
_CLIP_SAMPLES = round(RATE_HZ * CLIP_S)
_INT16_MAX = 32767
_SIZES = {96: "tiny", 128: "base", 256: "large"}
"""Width of HTSAT's first layer → what ``laion_clap`` calls it; the music checkpoint is "base"."""


class ClapAudio(nn.Module):
    """Waveform → log-mel → embedding in CLAP's joint space.

    Args:
        htsat: ``laion_clap``'s ``HTSAT_Swin_Transformer``, without fusion.
    """

    def __init__(self, htsat: Any):
        super().__init__()
        self.audio_branch = htsat
        self.audio_projection = nn.Sequential(
            nn.Linear(htsat.num_features, CLAP_DIM), nn.ReLU(), nn.Linear(CLAP_DIM, CLAP_DIM)
        )

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Compute the log-mel of clips as ``laion_clap`` computes it, always in float32.

        Args:
            waveform: (batch, samples) at 48 kHz, full scale ±1, at most 10 s.

        Returns:
            (batch, mel_bin, frame): 64 bins in dB, 1001 frames.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            power = self.audio_branch.spectrogram_extractor(clap_clip(waveform))
            mel = self.audio_branch.logmel_extractor(power)  # (batch, 1, frame, mel_bin)
        return mel[:, 0].transpose(1, 2)

    def forward(self, mel: Tensor) -> Tensor:
        """Embed (batch, mel_bin, frame) of ``log_mel``: (batch, 512) unit norm."""
        normalized = self.audio_branch.bn0(mel[..., None])  # (batch, mel_bin, frame, 1)
        image = self.audio_branch.reshape_wav2img(normalized.transpose(1, 3))
        latent = self.audio_branch.forward_features(image)["embedding"]
        return F.normalize(self.audio_projection(latent).float(), dim=-1)


def clap_clip(waveform: Tensor) -> Tensor:
    """Prepare a waveform as CLAP hears it: (batch, samples) → (batch, 480000) in steps of 16 bits.

    Differs: ``laion_clap`` clips what is louder than full scale, as sums of stems can be; here the
    whole clip is made as much softer as it takes.

    Raises:
        ValueError: it is empty or longer than 10 s.
    """
    samples = waveform.shape[-1]
    if not 0 < samples <= _CLIP_SAMPLES:
        raise ValueError(
            f"the waveform has {samples} samples; expected 1…{_CLIP_SAMPLES} ({CLIP_S:g} s at "
            f"{RATE_HZ} Hz)"
        )
    peak = waveform.abs().amax(dim=-1, keepdim=True).clamp(min=1.0)
    rounded = (waveform.float() / peak * _INT16_MAX).trunc() / _INT16_MAX
    repeated = rounded.repeat(1, _CLIP_SAMPLES // samples)
    return F.pad(repeated, (0, _CLIP_SAMPLES - repeated.shape[-1]))


def load_clap_audio(checkpoint: Path) -> ClapAudio:
    """Load the audio branch of a checkpoint of LAION's, on the CPU.

    Raises:
        ArtifactError: the checkpoint cannot be read, or has no HTSAT without fusion.
    """
    weights = read_clap_weights(checkpoint, "audio_branch.", "audio_projection.")
    first = weights.get("audio_branch.patch_embed.proj.weight")
    size = None if first is None else _SIZES.get(first.shape[0])
    if size is None:
        raise ArtifactError(
            f"{checkpoint} has an audio branch that is no HTSAT ({', '.join(_SIZES.values())}); "
            f"expected LAION's music checkpoint: stems labels fetch"
        )
    model = ClapAudio(_build_htsat(size))
    load_clap_weights(model, weights, checkpoint)
    return model


def _build_htsat(size: str) -> nn.Module:
    package = _import_laion_clap()
    from laion_clap.clap_module.htsat import create_htsat_model
    from laion_clap.clap_module.model import CLAPAudioCfp

    configs = Path(str(package.__file__)).parent / "clap_module" / "model_configs"
    config = json.loads((configs / f"HTSAT-{size}.json").read_text())["audio_cfg"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.meshgrid")
        return create_htsat_model(CLAPAudioCfp(**config))


def _import_laion_clap() -> ModuleType:
    """Import ``laion_clap`` without what its import does on the side.

    It looks for three tokenizers on the hub, none of which is needed here, and without a network
    tries again for minutes; and it appends its folder to ``sys.path``.
    """
    from huggingface_hub import constants

    is_offline, search_path = constants.HF_HUB_OFFLINE, list(sys.path)
    constants.HF_HUB_OFFLINE = True
    try:
        import laion_clap
    finally:
        constants.HF_HUB_OFFLINE = is_offline
        sys.path[:] = search_path
    return laion_clap
