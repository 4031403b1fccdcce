"""MLflow's registry mirrors ``champion.json``: one version a model_id, and the alias ``champion``.

``champion.json`` names the version only after the alias was set, so a promotion that was killed or
met a server that was down is recognised, and finished by doing it again. Nobody reads the alias
here; it is for people and programs that know a model as ``models:/stem-jepa@champion``.
"""

from __future__ import annotations

import logging
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST_NAME, DataLayout, read_json
from ml.locks import lock
from ml.mlflow_store import mlflow_client
from ml.retrieval.champion.champion import ChampionChangedError, replace_champion
from ml.training.mlflow_artifacts import CHECKPOINT
from ml.training.models import checkpoint_path, read_champion

ALIAS = "champion"
_log = logging.getLogger(__name__)


def mirror_champion(layout: DataLayout, uri: str, name: str) -> str | None:
    """Let MLflow's alias follow the champion; does nothing where it has done so already.

    Args:
        layout: where ``champion.json`` lies; there must be a champion.
        uri: of MLflow's store.
        name: of the registered model; made when missing.

    Returns:
        The version; None where MLflow cannot be reached, with a warning: the next call catches up.
    """
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
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
            client.set_registered_model_alias(name, ALIAS, version)
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
    """Find the registered version of a model; made from its run's artifact where there is none."""
    _ensure_registered(client, name)
    known = client.search_model_versions(f"name = '{name}' and tags.model_id = '{model_id}'")
    if known:
        return str(known[0].version)
    run_id = read_json(checkpoint / MANIFEST_NAME).get("mlflow_run_id")
    made = client.create_model_version(
        name,
        _uploaded(client, run_id, checkpoint) if run_id else checkpoint.as_uri(),
        run_id=run_id,
        tags={"model_id": model_id},
    )
    return str(made.version)


def _ensure_registered(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    if client.search_registered_models(f"name = '{name}'"):
        return
    try:
        client.create_registered_model(name)
    except MlflowException as error:  # another process was faster
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _uploaded(client: Any, run_id: str, checkpoint: Path) -> str:
    """Say where a run keeps its checkpoint; uploaded if it is not there, the manifest last."""
    last = f"{CHECKPOINT}/{MANIFEST_NAME}"
    if last not in {file.path for file in client.list_artifacts(run_id, CHECKPOINT)}:
        files = [path for path in sorted(checkpoint.iterdir()) if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == MANIFEST_NAME):
            client.log_artifact(run_id, str(path), CHECKPOINT)
    return f"runs:/{run_id}/{CHECKPOINT}"
