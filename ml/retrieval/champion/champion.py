"""``champion.json``: the one truth of which model queries use; replaced atomically.

Two processes never promote over each other's heads: who replaces the champion says which one it
has seen, and is refused when that is no longer the one (``replace_champion``). The databases of
models that are neither champion nor the one before can be dropped (``drop_model``).

MLflow's registry mirrors it: one version a model_id, and the alias ``champion``. A version is a
model that MLflow loads and serves (``mlflow_model``); its files lie once, in the artifacts of the
run that trained it, or of one that was made for it.
``champion.json`` names the version only after the alias was set, so a promotion that was killed or
met a server that was down is recognised, and finished by doing it again. Nobody reads the alias
here; it is for people and programs that know a model as ``models:/stem-jepa@champion``.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml import kinds
from ml.artifacts import (
    MANIFEST_NAME,
    ArtifactError,
    DataLayout,
    crash_point,
    read_json,
    read_manifest,
    write_json,
)
from ml.locks import lock
from ml.mlflow_store import find_or_make_experiment, local_database, mlflow_client
from ml.retrieval.champion.mlflow_model import DESCRIPTION, MLMODEL_NAME, write_mlflow_model
from ml.retrieval.tables.database import database_uri, drop_tables, stored_bytes, table_names
from ml.retrieval.tables.publish import publication_folder
from ml.training.models import (
    Champion,
    champion_path,
    checkpoint_path,
    current_champion,
    find_model,
    read_champion,
)
from ml.training.tracking import CHECKPOINT, send_folder

if TYPE_CHECKING:
    from ml.models.stem_jepa import StemJepa
    from ml.retrieval.embeddings.model import EmbeddingModel

_log = logging.getLogger(__name__)
ALIAS = "champion"


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


def mirror_champion(layout: DataLayout, uri: str, name: str) -> str | None:
    """Let MLflow's alias follow the champion; does nothing where it has done so already.

    Args:
        layout: where ``champion.json`` lies; there must be a champion.
        uri: of MLflow's store.
        name: of the registered model; made when missing.

    Returns:
        The version; None where MLflow cannot be reached, with a warning: the next call catches up.
    """
    if (database := local_database(uri)) is not None and not database.is_file():
        _log.warning("there is no MLflow store at %s; the alias %s is not set", uri, ALIAS)
        return None
    from mlflow.exceptions import MlflowException

    # The pointer is read inside: of several promoters at once the last sets the alias, and right.
    with lock(layout.lancedb / ".alias.lock", waits=True):
        champion = read_champion(layout)
        if champion.mlflow_version is not None:
            return champion.mlflow_version
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # one warning is enough
        try:
            client = mlflow_client(uri)
            version = _version(client, name, champion.model_id, checkpoint_path(layout, champion))
            crash_point()
            client.set_registered_model_alias(name, ALIAS, version)
            crash_point()
        except (MlflowException, OSError) as error:
            _log.warning(
                "the champion is %s, but MLflow at %s does not know yet: %s; once it can be "
                "reached, catch up with: stems promote",
                *(champion.model_id, uri, textwrap.shorten(str(error), 200)),
            )
            return None
        try:
            replace_champion(layout, champion, replace(champion, mlflow_version=version))
        except ChampionChangedError:
            return None  # who changed it mirrors it
        return version


def _version(client: Any, name: str, model_id: str, checkpoint: Path) -> str:
    """Find the registered version of a model; made of what its run keeps where there is none."""
    _ensure_registered(client, name)
    crash_point()
    manifest = read_json(checkpoint / MANIFEST_NAME)
    run_id, called = _run_of(client, name, manifest), manifest.get("name", "model")
    source = _uploaded(client, run_id, checkpoint)
    found = client.search_model_versions(f"name = '{name}' and tags.model_id = '{model_id}'")
    if known := [version for version in found if version.source == source]:
        return str(known[0].version)
    made = client.create_model_version(
        name,
        source,
        run_id=run_id,
        tags={"model_id": model_id},
        description=f"{called}: `stems query mix.wav --instrument bass --model {model_id}`",
    )
    return str(made.version)


def _ensure_registered(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    if client.search_registered_models(f"name = '{name}'"):
        return
    try:
        client.create_registered_model(name, description=DESCRIPTION)
    except MlflowException as error:  # another process was faster
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _run_of(client: Any, name: str, manifest: Mapping[str, Any]) -> str:
    """Find the run that keeps a model; made where its training is unknown to this store."""
    from mlflow.exceptions import MlflowException

    if run_id := manifest.get("mlflow_run_id"):
        try:
            return client.get_run(run_id).info.run_id
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    experiment, model_id = find_or_make_experiment(client, name), manifest["model_id"]
    made = client.search_runs([experiment], f"tags.model_id = '{model_id}'", max_results=1)
    if made:
        return made[0].info.run_id
    called, tags = manifest.get("name"), {"model_id": model_id}
    run_id = client.create_run(experiment, tags=tags, run_name=called).info.run_id
    client.set_terminated(run_id)
    return run_id


def _uploaded(client: Any, run_id: str, checkpoint: Path) -> str:
    """Say where a run keeps its model; what of it is not there is uploaded."""
    kept = {Path(file.path).name for file in client.list_artifacts(run_id, CHECKPOINT)}
    if MANIFEST_NAME not in kept:
        send_folder(client, run_id, checkpoint, last=MANIFEST_NAME)
    if MLMODEL_NAME not in kept:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / CHECKPOINT
            write_mlflow_model(folder, run_id, CHECKPOINT)
            send_folder(client, run_id, folder, last=MLMODEL_NAME)
    return f"runs:/{run_id}/{CHECKPOINT}"
