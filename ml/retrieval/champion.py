"""``champion.json``: the one truth of which model queries use; replaced atomically.

Two processes never promote over each other's heads: who replaces the champion says which one it
has seen, and is refused when that is no longer the one (``replace_champion``).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ml.artifacts import (
    MANIFEST_NAME,
    ArtifactError,
    DataLayout,
    read_json,
    read_manifest,
    write_json,
)
from ml.locks import lock

if TYPE_CHECKING:
    from ml.models.stem_jepa import StemJepa
    from ml.retrieval.embedding_model import EmbeddingModel

_log = logging.getLogger(__name__)


class ChampionChangedError(RuntimeError):
    """Another process has replaced the champion meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The model that queries use."""

    model_id: str
    """Names its database."""
    checkpoint: str
    """Its folder, relative to the home if it lies there."""
    mlflow_version: str | None = None
    """Its version in MLflow's registry; None until the alias there was set to it."""
    previous: str | None = None
    """The model_id of the champion before."""
    promoted_at: str = ""
    """UTC, ISO 8601."""
    withdrawn: tuple[str, ...] = ()
    """The model_ids that a rollback took back; they are promoted again only by force."""


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
        return Champion(**{**found, "withdrawn": tuple(found.get("withdrawn", ()))})
    except (AttributeError, TypeError) as error:
        raise ArtifactError(
            f"{path} does not describe a champion ({error}); delete it and promote again"
        ) from None


def current_champion(layout: DataLayout) -> Champion | None:
    """The model that queries use; None before the first promotion.

    Raises:
        ArtifactError: the file is damaged.
    """
    return read_champion(layout) if champion_path(layout).is_file() else None


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


def successor(
    layout: DataLayout, before: Champion | None, model_id: str, checkpoint: Path
) -> Champion:
    """The champion that a model would be after another one; writes nothing."""
    inside = checkpoint.is_relative_to(layout.home)
    withdrawn = before.withdrawn if before else ()
    return Champion(
        model_id=model_id,
        checkpoint=(checkpoint.relative_to(layout.home) if inside else checkpoint).as_posix(),
        previous=before and before.model_id,
        promoted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        withdrawn=tuple(other for other in withdrawn if other != model_id),
    )


def replace_champion(layout: DataLayout, before: Champion | None, after: Champion) -> None:
    """Make ``after`` the champion if ``before`` still is it (compare-and-swap).

    Raises:
        ChampionChangedError: another process has replaced the champion since ``before`` was read.
    """
    with lock(layout.lancedb / ".lock", waits=True):
        found = current_champion(layout)
        if found != before:
            raise ChampionChangedError(
                f"{champion_path(layout)} names {found.model_id if found else 'nobody'}, where "
                f"{before.model_id if before else 'nobody'} was expected: another process has "
                f"replaced the champion meanwhile; start again"
            )
        write_json(champion_path(layout), asdict(after))


def write_champion(
    layout: DataLayout, model_id: str, checkpoint: Path, mlflow_version: str | None = None
) -> Champion:
    """Make a model the champion, whoever was it; returns what was written.

    A model that is champion already keeps ``previous`` and the time of its promotion.

    Raises:
        ChampionChangedError: another process was faster.
    """
    before = current_champion(layout)
    after = successor(layout, before, model_id, checkpoint)
    if before is not None and before.model_id == model_id:
        after = replace(before, checkpoint=after.checkpoint)
    if mlflow_version is not None:
        after = replace(after, mlflow_version=mlflow_version)
    if after != before:
        replace_champion(layout, before, after)
    return after


def earlier_champion(
    layout: DataLayout, models: Sequence[EmbeddingModel], corpus: str
) -> list[StemJepa]:
    """The champion, where none of the current models is it any more; else an empty list.

    After a training the champion is not among the current models, but queries still use it: what
    embeds a corpus embeds it with the champion too, so that new stems can be found, and that a
    candidate is compared on the same stems. A champion that can no longer embed (its checkpoint is
    gone, or the labels of the corpus come from another label encoder) is left out with a warning.

    Args:
        layout: where everything lies.
        models: the current ones.
        corpus: what is to be embedded.
    """
    from ml.corpora.labels import FORMAT_VERSION
    from ml.models.stem_jepa import load_model
    from ml.retrieval.embedding_model import check_label_encoder

    champion = current_champion(layout)
    if champion is None or champion.model_id in {model.model_id for model in models}:
        return []
    made_by = f"stems labels build {corpus}"
    try:
        model = load_model(checkpoint_path(layout, champion))
        labels = read_manifest(
            layout.labels(corpus), format_version=FORMAT_VERSION, made_by=made_by
        )
        check_label_encoder(model, labels["encoder"])
    except ArtifactError as error:
        _log.warning("the champion %s does not embed %s: %s", champion.model_id, corpus, error)
        return []
    return [model]
