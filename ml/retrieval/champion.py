"""``champion.json``: the one truth of which model queries use; replaced atomically."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, read_json, write_json


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The model that queries use."""

    model_id: str
    """Names its database."""
    checkpoint: str
    """Its folder, relative to the home if it lies there."""
    mlflow_version: str | None = None
    """Its version in MLflow's registry."""
    previous: str | None = None
    """The model_id of the champion before."""
    promoted_at: str = ""
    """UTC, ISO 8601."""


def checkpoint_path(layout: DataLayout, champion: Champion) -> Path:
    """Absolute path of the champion's checkpoint folder."""
    return layout.home / champion.checkpoint


def champion_path(layout: DataLayout) -> Path:
    """Where ``champion.json`` lies."""
    return layout.lancedb / "champion.json"


def read_champion(layout: DataLayout) -> Champion:
    """The model that queries use.

    Raises:
        ArtifactError: none was promoted yet, or the file is damaged.
    """
    path = champion_path(layout)
    if not path.is_file():
        raise ArtifactError(
            f"{path} does not exist: no model was promoted yet; run the pipeline (make demo), or "
            f"name a model with --model"
        )
    found = read_json(path)
    try:
        return Champion(**found)
    except TypeError as error:
        raise ArtifactError(
            f"{path} does not describe a champion ({error}); promote again"
        ) from None


def find_checkpoint(layout: DataLayout, model: str | None = None) -> Path:
    """The checkpoint folder that a person means.

    Args:
        layout: where models lie.
        model: a name in ``runs/models.json``, or a folder; None: the champion.

    Raises:
        ArtifactError: no such model, or no champion yet.
    """
    if model is None:
        return checkpoint_path(layout, read_champion(layout))
    from ml.training.model_index import read_models

    names = read_models(layout) if layout.models_index.is_file() else {}
    if model in names:
        return names[model]
    path = Path(model).expanduser().resolve()
    if not (path / MANIFEST_NAME).is_file():
        known = ", ".join(names) or "none trained yet"
        raise ArtifactError(
            f"{model!r} is neither a trained model ({known}) nor the folder of a checkpoint"
        )
    return path


def write_champion(
    layout: DataLayout, model_id: str, checkpoint: Path, mlflow_version: str | None = None
) -> Champion:
    """Make a model the one that queries use; returns what was written.

    A model that is champion already keeps ``previous`` and the time of its promotion.
    """
    before = read_champion(layout) if champion_path(layout).is_file() else None
    is_same = before is not None and before.model_id == model_id
    now = datetime.now(UTC).isoformat(timespec="seconds")
    inside = checkpoint.is_relative_to(layout.home)
    champion = Champion(
        model_id=model_id,
        checkpoint=(checkpoint.relative_to(layout.home) if inside else checkpoint).as_posix(),
        mlflow_version=mlflow_version or (before.mlflow_version if before and is_same else None),
        previous=before and (before.previous if is_same else before.model_id),
        promoted_at=before.promoted_at if before and is_same else now,
    )
    if champion != before:
        write_json(champion_path(layout), asdict(champion))
    return champion
