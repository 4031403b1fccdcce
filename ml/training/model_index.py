"""``runs/models.json``: which checkpoint folder each model name stands for now."""

from __future__ import annotations

from pathlib import Path

from ml.artifacts import ArtifactError, DataLayout, read_json, write_json
from ml.training.config import PRESETS

UNTRAINED = "untrained"
CONTRASTIVE = "contrastive"


def read_models(layout: DataLayout) -> dict[str, Path]:
    """Model name → its checkpoint folder now: ``untrained``, then in the order of ``PRESETS``.

    Raises:
        ArtifactError: nothing has been trained yet.
    """
    if not layout.models_index.is_file():
        raise ArtifactError(f"{layout.models_index} does not exist; train first: stems train")
    index = read_json(layout.models_index)
    return {name: layout.home / index[name] for name in (UNTRAINED, *PRESETS) if name in index}


def point_models(layout: DataLayout, preset: str, run: Path) -> None:
    """Let a preset's name stand for the model of a run (and ``untrained`` for its start)."""
    index = read_json(layout.models_index) if layout.models_index.is_file() else {}
    index[preset] = (run / "model").relative_to(layout.home).as_posix()
    if preset == CONTRASTIVE:
        index[UNTRAINED] = (run / "initial").relative_to(layout.home).as_posix()
    write_json(layout.models_index, index)


def phase_1_model(layout: DataLayout) -> Path:
    """The contrastive model that phase 2 starts from.

    Raises:
        ArtifactError: there is none yet.
    """
    models = read_models(layout) if layout.models_index.is_file() else {}
    if CONTRASTIVE not in models:
        raise ArtifactError(
            f"{layout.models_index} names no contrastive model to start phase 2 from; train it "
            "first: stems train --preset contrastive"
        )
    return models[CONTRASTIVE]
