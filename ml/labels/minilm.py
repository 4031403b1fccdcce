"""Sentence-BERT's all-MiniLM-L6-v2 by torch alone (Reimers and Gurevych, arXiv:1908.10084).

``transformers`` runs it too (a test compares both), but takes seconds to import, for which every
question with a new word would wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor, arange, inference_mode

from ml.labels.encoder import EncodeOne

_LAYERS, _HEADS = 6, 12
_NORM_EPS = 1e-12
_MAX_TOKENS = 256


def load_minilm(folder: Path) -> EncodeOne:
    """Load what encodes one text: masked mean over tokens, (384,) float32, unit norm.

    Args:
        folder: with ``model.safetensors`` and ``tokenizer.json``.
    """
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    weights = load_file(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MAX_TOKENS)

    def encode_one(text: str) -> np.ndarray:
        with inference_mode():
            hidden = _bert(weights, tokenizer.encode(text).ids)  # alone, so no padding
            return F.normalize(hidden.mean(0), dim=0).numpy().copy()

    return encode_one


def _bert(weights: Mapping[str, Tensor], tokens: list[int]) -> Tensor:
    """Run the encoder of BERT on the ids of one text: (token, dim)."""

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
