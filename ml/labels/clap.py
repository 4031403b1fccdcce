"""CLAP's two branches, read straight from LAION's checkpoint; the hub is not asked.

Text, our label encoder: instrument → RoBERTa → the pooled first token → two linear layers → unit
norm, 512 dimensions (Wu et al., ICASSP 2023; what Riou et al., arXiv:2411.19806v2, section II-E
condition with).

Audio: ``laion_clap``'s own ``load_ckpt`` unpickles freely and its ``CLAP_Module`` downloads a
RoBERTa to overwrite it; neither is used. Of the package we take HTSAT (Chen et al., ICASSP 2022)
and the rule for what goes into it: clips of 10 s at 48 kHz, rounded to 16 bits; a shorter one is
repeated as often as it fits whole, then padded with silence.

The checkpoint is a pickle, which can run code, and also holds the state of the optimizer. So it is
read by ``ml.labels.untrusted``, memory-mapped: of 2.4 GB only the branch that is used is read.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ml.artifacts import ArtifactError
from ml.labels.clap_files import CHECKPOINT, MAX_TOKENS, TOKENIZER_FILES, ClapFiles
from ml.labels.encoder import EncodeOne, LabelEncoder, TextEncoder
from ml.labels.untrusted import load_tensors

_WANTED = f"LAION's CLAP checkpoint {CHECKPOINT.path}; get it with: stems labels fetch"
_EXPECTED = f"expected {_WANTED}"
CLAP_DIM = 512
"""Width of the space that audio and text share."""
_HEAD_DIM = 64
"""Width of an attention head in every RoBERTa."""
_POSITION_IDS = "text_branch.embeddings.position_ids"  # a buffer of older transformers
_log = logging.getLogger(__name__)
RATE_HZ = 48_000
CLIP_S = 10.0
"""What the network sees at a time."""
_CLIP_SAMPLES = round(RATE_HZ * CLIP_S)
_INT16_MAX = 32767
_SIZES = {96: "tiny", 128: "base", 256: "large"}
"""Width of HTSAT's first layer → what ``laion_clap`` calls it; the music checkpoint is "base"."""


def read_clap_weights(path: Path, *prefixes: str) -> dict[str, Tensor]:
    """Read the weights of some parts of a checkpoint, memory-mapped; float32.

    Args:
        path: the checkpoint.
        prefixes: parts, such as ``text_branch.``; the leading ``module.`` of training on several
            devices does not count.

    Returns:
        Name, with its prefix, → tensor. Keep the file as it is while they are used.

    Raises:
        ArtifactError: the file is missing, is no checkpoint, or lacks one of the parts.
    """
    state = _state_dict(path)
    named = {str(key).removeprefix("module."): value for key, value in state.items()}
    weights = {key: value for key, value in named.items() if key.startswith(prefixes)}
    for prefix in prefixes:
        if not any(key.startswith(prefix) for key in weights):
            shown = ", ".join(sorted({key.split(".")[0] for key in named})[:6]) or "nothing"
            raise ArtifactError(f"{path} holds no {prefix}* (but {shown}); {_EXPECTED}")
    for key, value in weights.items():
        if not isinstance(value, Tensor):
            raise ArtifactError(f"{path}: {key} is of type {type(value).__name__}; {_EXPECTED}")
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def load_clap_weights(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Make a module use these tensors as they are, without a copy; all must fit.

    Raises:
        ArtifactError: a weight is missing, left over, or of another shape.
    """
    try:
        module.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ArtifactError(f"{path} has other weights ({reason}); {_EXPECTED}") from None
    module.requires_grad_(False).eval()


def _state_dict(path: Path) -> dict[Any, Any]:
    content = load_tensors(path, expected=_WANTED, is_mapped=True, has_weights_only=True)
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        raise ArtifactError(f"{path} holds {type(state).__name__}, no weights; {_EXPECTED}")
    return state


def clap_text_encoder(files: ClapFiles) -> LabelEncoder:
    """Make CLAP's text branch (125 M parameters) a label encoder.

    Texts are encoded without padding; ``laion_clap`` pads to 77 tokens, which gives the same
    vectors and takes longer. A text of more than 77 tokens is cut, which is logged.

    Raises:
        ArtifactError: a file is missing; says how to get it.
    """
    files.require()
    return TextEncoder(
        "clap", CLAP_DIM, "CC0 1.0", lambda: load_clap_text(files), files.fingerprint
    )


class ClapText(nn.Module):
    """RoBERTa's pooled output, projected into the joint space; names as in LAION's checkpoints.

    Args:
        config: a ``transformers.RobertaConfig``.
        dim: width of the joint space.
    """

    def __init__(self, config: Any, dim: int = CLAP_DIM):
        from transformers import RobertaModel

        super().__init__()
        self.text_branch = RobertaModel(config)
        self.text_projection = nn.Sequential(
            nn.Linear(config.hidden_size, dim), nn.ReLU(), nn.Linear(dim, dim)
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encode (batch, token) ids: (batch, dim) unit norm."""
        pooled = self.text_branch(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=torch.zeros_like(input_ids),
        ).pooler_output
        return F.normalize(self.text_projection(pooled), dim=-1)


def load_clap_text(files: ClapFiles) -> EncodeOne:
    """Load what encodes one text: (512,) float32, unit norm; an empty text too.

    Raises:
        ArtifactError: the checkpoint is not LAION's, or the vocabulary is not its.
    """
    tokenizer = _load_tokenizer(files.tokenizer)
    model = _load_text_branch(files.checkpoint)
    words = model.text_branch.embeddings.word_embeddings.num_embeddings
    if len(tokenizer) > words:
        raise ArtifactError(
            f"{files.tokenizer} has {len(tokenizer)} tokens, but {files.checkpoint} knows {words}; "
            f"expected the vocabulary of the checkpoint: get both with: stems labels fetch"
        )

    def encode_one(text: str) -> np.ndarray:
        tokens = tokenizer(text)["input_ids"]
        if len(tokens) > MAX_TOKENS:
            _log.warning(
                "the text %r has %d tokens; CLAP reads the first %d", text, len(tokens), MAX_TOKENS
            )
            tokens = tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        with torch.inference_mode():
            return model(torch.tensor([tokens]))[0].numpy().copy()

    return encode_one


def _load_text_branch(checkpoint: Path) -> ClapText:
    weights = read_clap_weights(checkpoint, "text_branch.", "text_projection.")
    weights.pop(_POSITION_IDS, None)
    try:
        config = _roberta_config(weights)
    except (KeyError, ValueError) as error:
        raise ArtifactError(
            f"{checkpoint} has a text branch that is not RoBERTa (missing: {error}); expected "
            f"LAION's music checkpoint: stems labels fetch"
        ) from None
    with torch.device("meta"):  # no memory and no time for random weights
        model = ClapText(config)
    places = torch.arange(config.max_position_embeddings)[None]
    embeddings = model.text_branch.embeddings
    embeddings.register_buffer("position_ids", places, persistent=False)
    embeddings.register_buffer("token_type_ids", torch.zeros_like(places), persistent=False)
    load_clap_weights(model, weights, checkpoint)
    return model


def _roberta_config(weights: Mapping[str, Tensor]) -> Any:
    """Infer the configuration of these weights; all else as in ``roberta-base``."""
    from transformers import RobertaConfig

    words, width = weights["text_branch.embeddings.word_embeddings.weight"].shape
    layers = {int(key.split(".")[3]) for key in weights if ".encoder.layer." in key}
    inner = weights["text_branch.encoder.layer.0.intermediate.dense.weight"]
    return RobertaConfig(
        vocab_size=words,
        hidden_size=width,
        num_attention_heads=width // _HEAD_DIM,
        num_hidden_layers=len(layers),
        intermediate_size=inner.shape[0],
        max_position_embeddings=len(weights["text_branch.embeddings.position_embeddings.weight"]),
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )


def _load_tokenizer(folder: Path) -> Any:
    """Load RoBERTa's tokenizer from its two files; nothing else in the folder counts."""
    from transformers import RobertaTokenizer

    words, merges = (folder / name for name in TOKENIZER_FILES)
    try:
        vocabulary = json.loads(words.read_text(encoding="utf-8"))
        lines = merges.read_text(encoding="utf-8").split("\n")
        pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        if not all("".join(pair) in vocabulary and len(pair) == 2 for pair in pairs):
            raise ValueError(f"{merges.name} does not fit {words.name}")
        return RobertaTokenizer(vocab=vocabulary, merges=cast(Any, pairs))
    except (ValueError, TypeError) as error:
        raise ArtifactError(
            f"{folder} does not hold RoBERTa's vocabulary ({error}); get it with: "
            f"stems labels fetch"
        ) from None


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
