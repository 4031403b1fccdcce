"""The weights of LAION's CLAP checkpoints: only the parts that are asked for.

Such a file is a pickle, and a pickle can run code; it also holds the state of the optimizer. So it
is read by ``ml.labels.untrusted``, memory-mapped, so that of 2.4 GB only what is used is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ml.artifacts import ArtifactError
from ml.labels.clap_files import CHECKPOINT
from ml.labels.untrusted import load_tensors

_WANTED = f"LAION's CLAP checkpoint {CHECKPOINT.path}; get it with: stems labels fetch"
_EXPECTED = f"expected {_WANTED}"


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
