"""A model as a folder that loads anywhere: how it is written, carded, and fetched from a hub.

``config.json`` (how to build it), ``model.safetensors`` (weights and running means) and
``manifest.json`` (what it is and what it has seen) are a checkpoint; with a card, ``README.md``,
they are what ``StemJepa.save_pretrained`` writes and a hub of Hugging Face serves.

``huggingface_hub``'s conventions without its ``PyTorchModelHubMixin``: that builds a model of
``config.json`` and weights alone, so that it would not know its label encoder, its id and what it
was trained on; it takes weights of which some are missing; and where there are none in safetensors
it loads a pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ml import kinds
from ml.artifacts import (
    MANIFEST_NAME,
    ArtifactError,
    file_fingerprint,
    read_object,
    write_folder_aside,
    write_json,
)
from ml.models.running_means import RunningMeans
from ml.plain import first_line, jsonable

CONFIG_NAME, WEIGHTS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"
STATE_NAME = "training_state.pt"
FILES = (CONFIG_NAME, WEIGHTS_NAME, MANIFEST_NAME)
"""Of a checkpoint that is only used."""
CARRIED = (
    *("name", "version", "made_from", "label_encoder"),
    *("size", "seed", "training_tracks", "training_labels"),
)
"""What of a manifest holds wherever the model is used; the rest names things of its home."""


def save_checkpoint(
    path: Path,
    model: RunningMeans,
    config: Any,
    *,
    origin: Mapping[str, Any],
    state: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a checkpoint folder.

    Args:
        path: the folder; replaced when it exists.
        model: whose weights are saved.
        config: what it is trained with, or where it was imported from: a dataclass, or what was
            read of its ``config.json``.
        origin: what it has seen: ``name``, ``training_tracks``, ``training_labels``,
            ``label_encoder``, …, copied into the manifest.
        state: what exact resume needs; None for a checkpoint that is only used.

    Returns:
        The manifest; ``model_id`` is a fingerprint of configuration and weights.
    """
    with write_folder_aside(path) as aside:
        manifest = _write_files(aside, model, config, origin, {})
        if state is not None:
            torch.save(state, aside / STATE_NAME)
    return manifest


def save_pretrained(
    folder: Path,
    model: RunningMeans,
    config: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    types: Mapping[str, torch.dtype],
    facts: Mapping[str, Any],
) -> None:
    """Write a model and its card, as ``StemJepa.save_pretrained`` says.

    Args:
        folder: where; what is there is replaced if it was written by this function.
        model: whose weights are saved.
        config: of its ``config.json``.
        manifest: what is known of it.
        types: in which each tensor was stored when it was loaded; kept where nothing is lost.
        facts: for the card, see ``card_text``.

    Raises:
        ArtifactError: something else lies there.
    """
    folder = folder.expanduser().resolve()
    exported = {*FILES, CARD_NAME}
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if (folder.exists() and not folder.is_dir()) or (found and found != exported):
        what = ", ".join(sorted(found)[:5]) or "a file"
        raise ArtifactError(
            f"{folder} is there already and no exported model (found: {what}; expected nothing, or "
            f"{', '.join(sorted(exported))}); name another folder"
        )
    origin = {name: manifest[name] for name in CARRIED if name in manifest}
    with write_folder_aside(folder) as aside:
        _write_files(aside, model, config, origin, types)
        (aside / CARD_NAME).write_text(card_text(aside, **facts), encoding="utf-8")


def _write_files(
    folder: Path,
    model: RunningMeans,
    config: Any,
    origin: Mapping[str, Any],
    types: Mapping[str, torch.dtype],
) -> dict[str, Any]:
    from safetensors.torch import save

    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    for name, tensor in tensors.items():
        stored = tensor.to(types.get(name, tensor.dtype))
        tensors[name] = stored if torch.equal(stored.to(tensor.dtype), tensor) else tensor
    weights = save(tensors)
    manifest = {
        "format_version": kinds.MODEL.format_version,
        "model_id": _model_id(config, weights),
        "phase": model.config.phase,
        **origin,
    }
    (folder / WEIGHTS_NAME).write_bytes(weights)
    write_json(folder / CONFIG_NAME, config)
    write_json(folder / MANIFEST_NAME, manifest)
    return manifest


def _model_id(config: Any, weights: bytes) -> str:
    built = json.dumps(jsonable(config), sort_keys=True)
    return hashlib.sha256(built.encode() + weights).hexdigest()[:16]


def card_text(
    folder: Path,
    *,
    runs: Sequence[Mapping[str, Any]] = (),
    corpora: Mapping[str, str] | None = None,
    figures: Sequence[Mapping[str, Any]] = (),
    is_shipped: bool = False,
) -> str:
    """Write the card of a model folder.

    Args:
        folder: with ``FILES``.
        runs: that trained it, phase 1 first (``ml.training.export``).
        corpora: kind of each by its name.
        figures: of retrieval, a row a corpus (``ml.training.export``).
        is_shipped: it is the card of the model that comes with the package.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("card.md.jinja").render(
        manifest=read_object(folder / MANIFEST_NAME),
        config=read_object(folder / CONFIG_NAME),
        n_bytes=sum((folder / name).stat().st_size for name in FILES),
        sha256=file_fingerprint(folder / WEIGHTS_NAME),
        runs=runs,
        kinds=corpora or {},
        figures=figures,
        is_shipped=is_shipped,
        interval=_interval_text,
        within=lambda row, name: _interval_text(row[name]) if name in row else "–",
    )
    return text.strip() + "\n"


def _interval_text(row: Mapping[str, float]) -> str:
    return f"{row['value']:.1f} ({row['low']:.1f} to {row['high']:.1f})"


def pretrained_folder(name: str | Path, **options: Any) -> Path:
    """Find the folder that ``from_pretrained`` is to load, downloaded if need be.

    Args:
        name: a folder, or ``owner/name`` on a hub.
        options: of ``huggingface_hub.snapshot_download``: ``revision``, ``token``, ….

    Raises:
        ArtifactError: it is neither, the hub cannot be reached, or the folder holds no model.
    """
    folder = Path(name).expanduser()
    is_here = folder.exists()
    if not is_here:
        folder = _downloaded(str(name), options)
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if missing := [file for file in FILES if file not in found]:
        raise ArtifactError(
            f"{folder} is no model of this project: it lacks {', '.join(missing)} (found: "
            f"{', '.join(found[:5]) or 'nothing'}); expected a folder that 'stems export MODEL "
            "DIR' wrote (weights in safetensors; pickled ones are never loaded)"
        )
    if not is_here:
        _check_id(folder)
    return folder


def _check_id(folder: Path) -> None:
    """Refuse what strangers call by another id than its files have: folders are named by it."""
    config, weights = read_object(folder / CONFIG_NAME), (folder / WEIGHTS_NAME).read_bytes()
    said, own = read_object(folder / MANIFEST_NAME).get("model_id"), _model_id(config, weights)
    if said != own:
        raise ArtifactError(
            f"{folder / MANIFEST_NAME} says model_id {said!r}, but that of {CONFIG_NAME} and "
            f"{WEIGHTS_NAME} beside it is {own}; ask who published it to upload all that 'stems "
            "export' wrote"
        )


def _downloaded(name: str, options: Mapping[str, Any]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of the httpx that it uses
    )

    try:
        return Path(snapshot_download(name, allow_patterns=[*FILES, CARD_NAME], **options))
    except HFValidationError:
        raise ArtifactError(
            f"{name!r} is no folder that is there, and no name on a hub (owner/name); correct it"
        ) from None
    except (OSError, HTTPError) as error:  # what the hub answers, and that it does not
        cause = error.__cause__ or error
        raise ArtifactError(
            f"{name!r} is no folder here and cannot be had from the hub "
            f"({first_line(cause if isinstance(cause, Exception) else error)}); correct the name, "
            "check network, HF_ENDPOINT, HF_HUB_OFFLINE and token, or name a folder"
        ) from None
