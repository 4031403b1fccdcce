"""What a person means by a model: a name, a folder, an MLflow run, a registered version."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, read_json
from ml.retrieval.embedding_files import read_embedding_manifest

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """A model and where it comes from."""

    name: str
    """What tables call it; with the start of its id where both models have one name."""
    model_id: str
    """Names its embeddings."""
    checkpoint: Path | None = None
    """Its folder; None for what has no checkpoint (``spectrum``)."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """Of the checkpoint."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """``config.json`` of the checkpoint."""

    @property
    def mlflow_run_id(self) -> str | None:
        """The run that trained it."""
        return self.manifest.get("mlflow_run_id") or None


def find_compared(layout: DataLayout, text: str, tracking_uri: str) -> ComparedModel:
    """The model that ``text`` stands for.

    Args:
        layout: where models lie.
        text: a model name (``film``), a checkpoint or run folder, a run's name below ``runs``, a
            model_id, an MLflow run id, or ``models:/name@alias`` or ``models:/name/version``.
        tracking_uri: MLflow's store; asked only for what this home does not know itself.

    Raises:
        ArtifactError: there is no such model, or it lies in another home.
    """
    if text.startswith("models:"):
        return _registered(layout, text, tracking_uri)
    found = _checkpoint(layout, text)
    if found is not None:
        return _of_checkpoint(found)
    embedded = _embedded(layout, text)
    if embedded is not None:
        return embedded
    if _RUN_ID.fullmatch(text):
        return _of_run(layout, text, tracking_uri)
    raise ArtifactError(
        f"{text!r} is no model here ({', '.join(_names(layout)) or 'none trained yet'}), no folder "
        f"of a checkpoint, no model_id, no MLflow run id and no models:/name@alias"
    )


def embedded_corpora(layout: DataLayout, model: ComparedModel, conditioning: str) -> list[str]:
    """The corpora that a model has embedded, with queries of this conditioning."""
    found = sorted(layout.embeddings(model.model_id, "x").parent.glob(f"*/{MANIFEST_NAME}"))
    corpora = [path.parent.name for path in found]
    return [
        corpus
        for corpus in corpora
        if conditioning
        in read_embedding_manifest(layout, model.model_id, corpus)["identity"]["conditionings"]
    ]


def _checkpoint(layout: DataLayout, text: str) -> Path | None:
    """The checkpoint folder meant by a name, path, model_id or MLflow run id, if it is here."""
    path = Path(text).expanduser()
    index = read_json(layout.models_index) if layout.models_index.is_file() else {}
    named = [layout.home / index[text]] if text in index else []
    for folder in (*named, path, path / "model", layout.runs / text / "model"):
        if (folder / MANIFEST_NAME).is_file() and (folder / "config.json").is_file():
            return folder.resolve()
    folders = [
        *(layout.home / folder for folder in index.values()),
        *(p.parent for p in sorted(layout.runs.glob(f"*/*/{MANIFEST_NAME}"))),
    ]
    for folder in folders:
        if (folder / MANIFEST_NAME).is_file():
            manifest = read_json(folder / MANIFEST_NAME)
            if text in (manifest.get("model_id"), manifest.get("mlflow_run_id")):
                return folder
    return None


def _of_checkpoint(folder: Path) -> ComparedModel:
    from ml.training.checkpoints import read_checkpoint_manifest

    manifest = read_checkpoint_manifest(folder)
    return ComparedModel(
        name=manifest.get("name", folder.name),
        model_id=manifest["model_id"],
        checkpoint=folder,
        manifest=manifest,
        config=read_json(folder / "config.json"),
    )


def _embedded(layout: DataLayout, text: str) -> ComparedModel | None:
    """What has embeddings but no checkpoint: ``spectrum``, ``clap-audio``, by name or id."""
    newest: Sequence[Path] = sorted(
        (layout.home / "embeddings").glob(f"*/*/{MANIFEST_NAME}"), key=lambda p: p.stat().st_mtime
    )
    for path in reversed(newest):
        model_id, name = path.parent.parent.name, read_json(path)["summary"].get("model")
        if text in (model_id, name):
            return ComparedModel(name=name or model_id, model_id=model_id)
    return None


def _of_run(layout: DataLayout, run_id: str, tracking_uri: str) -> ComparedModel:
    """The model of an MLflow run that no checkpoint names, by its tag ``training_id``."""
    tags = _ask_mlflow(tracking_uri, lambda client: client.get_run(run_id).data.tags)
    training = tags.get("training_id", "")
    found = _checkpoint(layout, training) if training else None
    if found is None:
        raise ArtifactError(
            f"MLflow run {run_id} trained {training or 'nothing'}, of which {layout.runs} holds no "
            f"finished model; name a home that has it with --home"
        )
    return _of_checkpoint(found)


def _registered(layout: DataLayout, text: str, tracking_uri: str) -> ComparedModel:
    match = _REGISTERED.fullmatch(text)
    if match is None:
        raise ArtifactError(f"{text!r}: expected models:/name@alias or models:/name/version")
    name, alias, version = match["name"], match["alias"], match["version"]
    found = _ask_mlflow(
        tracking_uri,
        lambda client: (
            client.get_model_version_by_alias(name, alias)
            if alias
            else client.get_model_version(name, version)
        ),
    )
    for known in (found.tags.get("model_id"), found.run_id):
        folder = _checkpoint(layout, known) if known else None
        if folder is not None:
            return _of_checkpoint(folder)
    raise ArtifactError(
        f"{text} is version {found.version}, trained by run {found.run_id or 'unknown'}, whose "
        f"checkpoint does not lie in {layout.runs}; name a home that has it with --home"
    )


def _ask_mlflow(uri: str, question: Any) -> Any:
    from mlflow.exceptions import MlflowException

    from ml.training.tracking import mlflow_client

    try:
        return question(mlflow_client(uri))
    except (MlflowException, OSError) as error:
        raise ArtifactError(f"MLflow at {uri} does not know it: {error}") from None


def _names(layout: DataLayout) -> list[str]:
    return list(read_json(layout.models_index)) if layout.models_index.is_file() else []
