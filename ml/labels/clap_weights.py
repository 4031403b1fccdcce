"""Reading LAION's CLAP checkpoints: tensors only, and only those that are asked for.

Such a file is a pickle, and a pickle can run code. It also holds what weights do not need: the
state of the optimizer and a NumPy scalar. So it is read with ``weights_only``, which builds
nothing but tensors, plain values and the few NumPy types that are named here, and memory-mapped,
so that of 2.4 GB only what is used is read.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ml.artifacts import ArtifactError
from ml.labels.clap_files import CHECKPOINT

_EXPECTED = f"expected LAION's CLAP checkpoint {CHECKPOINT.path}; get it with: stems labels fetch"
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]  # its module is renamed in NumPy 2
_ALLOWED: list[Any] = [
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
]
"""What a checkpoint may hold besides tensors and plain values."""


def read_clap_weights(path: Path, *prefixes: str) -> dict[str, Tensor]:
    """Weights of some parts of a checkpoint, memory-mapped; float32.

    Args:
        path: the checkpoint.
        prefixes: parts, such as ``text_branch.``; the leading ``module.`` of training on several
            devices does not count.

    Returns:
        Name, with its prefix, → tensor. Keep the file as it is while they are used.

    Raises:
        ArtifactError: the file is missing, is no checkpoint, holds other objects than weights, or
            lacks one of the parts.
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
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist; {_EXPECTED}") from None
    except pickle.UnpicklingError:
        raise ArtifactError(
            f"{path} holds other objects than weights, which could run code, so it is not read; "
            f"{_EXPECTED}"
        ) from None
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ArtifactError(f"{path} cannot be read ({reason}); {_EXPECTED}") from None
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(state, dict):
        raise ArtifactError(f"{path} holds {type(found).__name__}, no weights; {_EXPECTED}")
    return state
