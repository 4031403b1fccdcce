"""Other people's checkpoint files: their tensors, read without running what is inside.

A PyTorch checkpoint is a pickle, and a pickle may call any function. Here only what builds tensors
and plain containers is called; every other class (an optimizer's, a callback's, a NumPy scalar) is
replaced by an empty stand-in. CLAP's and the predecessor's files are read by this one reader.
"""

from __future__ import annotations

import contextlib
import pickle
import tarfile
import types
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from ml.artifacts import ArtifactError

_TENSOR_BUILDERS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("torch", "device"),
}
_DTYPES = {name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)}
_STORAGES = {name for name in dir(torch) if name.endswith("Storage")}


class StandIn:
    """What an object of a class that is not called becomes: it holds nothing and does nothing."""

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass

    def __call__(self, *_arguments: Any, **_named: Any) -> StandIn:
        """Pickles call what they name; a stand-in answers with another."""
        return StandIn()

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _value: Any) -> None:
        """Pickled lists of unknown classes fill themselves by this."""

    def extend(self, _values: Any) -> None:
        """As ``append``, several at once."""


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_storage = module in ("torch", "torch.storage") and name in _STORAGES
        is_dtype = module == "torch" and name in _DTYPES
        if (module, name) in _TENSOR_BUILDERS or is_storage or is_dtype:
            return super().find_class(module, name)
        return StandIn


class _WeightsUnpickler(_TensorUnpickler):
    """The same, but only NumPy's scalars may be passed over: all else is no file of weights.

    Their bytes are written as a call of ``_codecs.encode``, which is passed over like them.
    """

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        is_scalar = module.partition(".")[0] == "numpy" or (module, name) == ("_codecs", "encode")
        if found is StandIn and not is_scalar:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which could run code")
        return found


def _refuse_other_archives(path: Path, expected: str) -> None:
    """Refuse what torch would hand to another loader: programs, and the tar files of old."""
    other = None
    with contextlib.suppress(OSError):  # the reader says what is wrong with the file itself
        if zipfile.is_zipfile(path):
            with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
                inside = [PurePosixPath(name) for name in archive.namelist()]
                if any(x.name == "constants.pkl" or "code" in x.parts for x in inside):
                    other = "a TorchScript program"
        elif tarfile.is_tarfile(path):
            other = "a tar archive, as torch wrote them before version 0.2"
    if other is not None:
        raise ArtifactError(f"{path} is {other}, no checkpoint of tensors; expected {expected}")


def load_tensors(
    path: Path, *, expected: str, is_mapped: bool = False, has_weights_only: bool = False
) -> dict[str, Any]:
    """Read a checkpoint file; tensors on the CPU, unknown objects as ``StandIn``.

    Args:
        path: a file that ``torch.save`` wrote.
        expected: which file that should be, and where to get it, for the error.
        is_mapped: map tensors from disk, so that only what is used is read; the file must stay as
            it is meanwhile.
        has_weights_only: refuse a file with unknown objects (NumPy's scalars are no such).

    Raises:
        ArtifactError: no such file, or it is not such a file, or it does not hold a dict.
    """
    _refuse_other_archives(path, expected)
    reader = types.ModuleType("tensor_pickle")
    unpickler = _WeightsUnpickler if has_weights_only else _TensorUnpickler
    reader.__dict__.update(Unpickler=unpickler, load=lambda file, **o: unpickler(file, **o).load())
    try:
        # torch takes the restricted reader only when its own is switched off.
        content = torch.load(
            path, map_location="cpu", weights_only=False, pickle_module=reader, mmap=is_mapped
        )
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist; expected {expected}") from None
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(
            f"{path} cannot be read as a PyTorch checkpoint ({reason}); expected {expected}"
        ) from None
    if not isinstance(content, dict):
        raise ArtifactError(
            f"{path} holds {type(content).__name__}, no weights; expected {expected}"
        )
    return content
