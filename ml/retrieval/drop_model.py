"""Remove the database of a model that queries need no more."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, read_json
from ml.locks import lock
from ml.retrieval.champion import current_champion
from ml.retrieval.database import database_uri, drop_tables, stored_bytes, table_names


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """What was, or would be, removed."""

    model_id: str
    uri: str
    """The database."""
    tables: dict[str, int]
    """Name → bytes of its files."""


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
    model_id = _model_id(layout, model)
    with lock(layout.lancedb / ".lock", waits=True):  # nobody is promoted meanwhile
        _refuse_champions(layout, model, model_id)
        uri = database_uri(layout, model_id)
        tables = {name: stored_bytes(uri, name) for name in table_names(uri)}
        records = layout.lancedb / model_id
        if not tables and not records.is_dir():
            raise ArtifactError(f"{uri} holds no tables of model {model!r}; nothing to remove")
        if delete:
            # The records first: a database without one is published anew, not taken for whole.
            if (records / "published").is_dir():
                shutil.rmtree(records / "published")
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


def _model_id(layout: DataLayout, model: str) -> str:
    """The id of a model given by its name or its id."""
    from ml.training.model_index import read_models

    names = read_models(layout) if layout.models_index.is_file() else {}
    if model in names:
        return str(read_json(names[model] / MANIFEST_NAME)["model_id"])
    ids = sorted(path.name for path in layout.lancedb.glob("*") if path.is_dir())
    if model not in ids:
        raise ArtifactError(
            f"{model!r} is neither a trained model ({', '.join(names) or 'none yet'}) nor the id "
            f"of one with tables ({', '.join(ids) or 'none yet'})"
        )
    return model
