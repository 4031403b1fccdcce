"""Probes as files: ``beats/probes/<model>/``, with the encoder that they belong to.

``<fold>.safetensors`` for each training of ``ml.beats.folds``, and ``all.safetensors``, which is
what beats of other recordings are found with: of corpora with splits their one probe, of sets with
folds one that was trained on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.artifacts import ArtifactError, DataLayout, read_manifest, write_aside
from ml.beats.probe import BeatProbe

FORMAT_VERSION = 1
ALL = "all"
"""Name of the probe for other recordings."""
MADE_BY = "stems evaluate beats"


@dataclass(frozen=True, kw_only=True)
class StoredProbe:
    """A probe and what it needs to be used."""

    name: str
    """Its fold, or ``ALL``."""
    probe: BeatProbe
    layer: int
    """Of the encoder, as ``ViTEncoder.layer_patches`` counts."""
    row: int
    """Place of that layer in the features it was trained on."""
    peak_threshold: float
    """Lowest height of a peak, chosen on the validation tracks."""
    valid_loss: float | None
    epochs: int


def write_probe(folder: Path, name: str, probe: BeatProbe) -> None:
    """Write the weights of a probe."""
    from safetensors.torch import save_file

    with write_aside(folder / f"{name}.safetensors") as aside:
        save_file({key: value.contiguous() for key, value in probe.state_dict().items()}, aside)


def read_probe_manifest(layout: DataLayout, name: str) -> dict[str, Any]:
    """The manifest of a model's probes.

    Raises:
        ArtifactError: there are none, or they have a newer format.
    """
    return read_manifest(
        layout.beat_probes(name), format_version=FORMAT_VERSION, made_by=f"{MADE_BY} --model {name}"
    )


def read_probes(layout: DataLayout, name: str, model_id: str) -> dict[str, StoredProbe]:
    """The probes of a model by fold, ``ALL`` among them.

    Args:
        layout: where probes lie.
        name: of the model.
        model_id: of the encoder that they will be used with.

    Raises:
        ArtifactError: there are none, they belong to another encoder, or are damaged.
    """
    manifest = read_probe_manifest(layout, name)
    folder = layout.beat_probes(name)
    if manifest["model_id"] != model_id:
        raise ArtifactError(
            f"the probes in {folder} belong to encoder {manifest['model_id']}, this is "
            f"{model_id}; train probes on it with: {MADE_BY} --model {name}"
        )
    return {
        entry["name"]: StoredProbe(
            probe=_read(folder / f"{entry['name']}.safetensors", manifest["feature_dim"]),
            **entry,
        )
        for entry in manifest["probes"]
    }


def _read(path: Path, feature_dim: int) -> BeatProbe:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    probe = BeatProbe(feature_dim)
    try:
        probe.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(
            f"{path} is missing or damaged ({error}); delete {path.parent} and train again with: "
            f"{MADE_BY} --model {path.parent.name}"
        ) from None
    return probe.eval().requires_grad_(False)
