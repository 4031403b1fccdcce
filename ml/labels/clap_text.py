"""CLAP's text branch as label encoder, read straight from LAION's checkpoint.

Instrument → RoBERTa → the pooled first token → two linear layers → unit norm, 512 dimensions (Wu et
al., ICASSP 2023; what Riou et al., arXiv:2411.19806v2, section II-E condition with). Neither the
audio branch is built nor the hub asked. Audio: ``ml.labels.clap_audio``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ml.artifacts import ArtifactError
from ml.labels.clap_files import MAX_TOKENS, TOKENIZER_FILES, ClapFiles
from ml.labels.clap_weights import load_clap_weights, read_clap_weights
from ml.labels.encoder import EncodeOne, LabelEncoder, TextEncoder

CLAP_DIM = 512
"""Width of the space that audio and text share."""
_HEAD_DIM = 64
"""Width of an attention head in every RoBERTa."""
_POSITION_IDS = "text_branch.embeddings.position_ids"  # a buffer of older transformers
_log = logging.getLogger(__name__)


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
