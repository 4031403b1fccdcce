"""``champion.json``: the one truth of which model queries use; replaced atomically.

Two processes never promote over each other's heads: who replaces the champion says which one it
has seen, and is refused when that is no longer the one (``replace_champion``). The databases of
models that are neither champion nor the one before can be dropped (``drop_model``).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ml import kinds
from ml.artifacts import ArtifactError, DataLayout, read_manifest, write_json
from ml.locks import lock
from ml.retrieval.tables.database import database_uri, drop_tables, stored_bytes, table_names
from ml.retrieval.tables.publish import publication_folder
from ml.training.models import (
    Champion,
    champion_path,
    checkpoint_path,
    current_champion,
    find_model,
)

if TYPE_CHECKING:
    from ml.models.stem_jepa import StemJepa
    from ml.retrieval.embeddings.model import EmbeddingModel

_log = logging.getLogger(__name__)


class ChampionChangedError(RuntimeError):
    """Another process has replaced the champion meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """What was, or would be, removed."""

    model_id: str
    uri: str
    """The database."""
    tables: dict[str, int]
    """Name → bytes of its files."""


def successor(
    layout: DataLayout, before: Champion | None, model_id: str, checkpoint: Path
) -> Champion:
    """Describe the champion that a model would be after another one; writes nothing."""
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
        now = current_champion(layout)
        if now != before:
            raise ChampionChangedError(
                f"{champion_path(layout)} names {now.model_id if now else 'nobody'}, where "
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
    """Load the champion where none of the current models is it any more; else an empty list.

    After a training the champion is not among the current models, but queries still use it: what
    embeds a corpus embeds it with the champion too, so that new stems can be found, and that a
    candidate is compared on the same stems. A champion that can no longer embed (its checkpoint is
    gone, or the labels of the corpus come from another label encoder) is left out with a warning.

    Args:
        layout: where everything lies.
        models: the current ones.
        corpus: what is to be embedded.
    """
    from ml.models.stem_jepa import load_model
    from ml.retrieval.embeddings.model import check_label_encoder

    champion = current_champion(layout)
    if champion is None or champion.model_id in {model.model_id for model in models}:
        return []
    try:
        model = load_model(checkpoint_path(layout, champion))
        labels = read_manifest(layout.labels(corpus), kinds.LABEL_EMBEDDINGS)
        check_label_encoder(model, labels["encoder"])
    except ArtifactError as error:
        _log.warning("the champion %s does not embed %s: %s", champion.model_id, corpus, error)
        return []
    return [model]


def drop_model(layout: DataLayout, model: str, *, delete: bool = False) -> Dropped:
    """Find the database of a model and, with ``delete``, remove it and the record of what it held.

    The embeddings stay: ``stems embed CORPUS`` publishes them again without embedding.

    Args:
        layout: the home.
        model: a name in ``runs/models.json``, or a model id.
        delete: remove it.

    Raises:
        ArtifactError: it is the champion or the one before, or there is no such database.
    """
    model_id = find_model(layout, model).model_id
    uri, records = database_uri(layout, model_id), layout.lancedb / model_id
    with lock(layout.lancedb / ".lock", waits=True):  # nobody is promoted meanwhile
        _refuse_champions(layout, model, model_id)
        tables = {name: stored_bytes(uri, name) for name in table_names(uri)}
        if not tables and not records.is_dir():
            raise ArtifactError(f"{uri} holds no tables of model {model!r}; nothing to remove")
        if delete:
            # The records first: a database without one is published anew, not taken for whole.
            if publication_folder(layout, model_id).is_dir():
                shutil.rmtree(publication_folder(layout, model_id))
            drop_tables(uri)
            if records.is_dir():
                shutil.rmtree(records)
    return Dropped(model_id=model_id, uri=uri, tables=tables)


def _refuse_champions(layout: DataLayout, model: str, model_id: str) -> None:
    champion = current_champion(layout)
    if champion is None:
        return
    if model_id == champion.model_id:
        raise ArtifactError(
            f"model {model!r} ({model_id}) is the champion: queries use its tables; promote "
            f"another model first, or go back to the one before: stems rollback"
        )
    if model_id == champion.previous:
        raise ArtifactError(
            f"model {model!r} ({model_id}) is the champion that the present one has replaced: "
            f"'stems rollback' goes back to it; promote another model first, then it can go"
        )
