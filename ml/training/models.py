"""Which model is meant: by a name, a folder, an id, an MLflow run, on a hub, or as the champion.

Two files say what names stand for now: ``runs/models.json`` (a model name → its checkpoint folder)
and ``lancedb/champion.json`` (the model that queries use). The model that comes with the package is
called ``starter``, and answers where there is no champion.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ml import kinds
from ml.artifacts import (
    MANIFEST_NAME,
    ArtifactError,
    DataLayout,
    read_json,
    read_manifest,
    read_object,
    write_folder_aside,
    write_json,
)
from ml.locks import lock
from ml.models.predecessor import ImportedConfig
from ml.models.pretrained import pretrained_folder
from ml.models.stem_jepa import load_model
from ml.plain import did_you_mean
from ml.training.config import PRESETS, TrainingConfig
from ml.training.run_folder import mlflow_page

UNTRAINED = "untrained"
CONTRASTIVE = "contrastive"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_ON_A_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True, kw_only=True)
class FoundModel:
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

    @property
    def mlflow_page(self) -> str:
        """Where below the address of MLflow's pages that run is shown; empty without one."""
        run_id = self.mlflow_run_id
        return mlflow_page(self.checkpoint, run_id) if self.checkpoint and run_id else ""


def find_model(layout: DataLayout, text: str | None = None, tracking_uri: str = "") -> FoundModel:
    """Find the model that a person means.

    Args:
        layout: where models lie.
        text: a model name (``film``), a checkpoint or run folder, a run's name below ``runs``, a
            model_id, an MLflow run id, ``models:/name@alias`` or ``models:/name/version``, or
            ``owner/name`` on a hub, which is fetched once, into ``runs``; None: the champion, and
            before there is one ``starter``.
        tracking_uri: MLflow's store; asked only for what this home does not know itself.

    Raises:
        ArtifactError: there is no such model, it lies in another home, or the hub does not give it.
    """
    if text is None:
        champion = current_champion(layout)
        return _of_checkpoint(checkpoint_path(layout, champion) if champion else _shipped(layout))
    if text.startswith("models:"):
        return _registered(layout, text, tracking_uri)
    checkpoint = _checkpoint(layout, text)
    if checkpoint is not None:
        return _of_checkpoint(checkpoint)
    without_checkpoint = _embedded(layout, text) or _published(layout, text)
    if without_checkpoint is not None:
        return without_checkpoint
    if _RUN_ID.fullmatch(text):
        return _of_run(layout, text, tracking_uri)
    if text == kinds.STARTER:
        raise ArtifactError(_not_shipped())
    if _ON_A_HUB.fullmatch(text) and not Path(text).parent.exists():
        return _of_hub(layout, text)
    known = [*_index(layout), *([kinds.STARTER] if has_starter() else [])]
    raise ArtifactError(
        f"{text!r} is no model here{did_you_mean(text, known)} "
        f"({', '.join(known) or 'none trained yet'}), no folder "
        f"of a checkpoint, no model_id, no MLflow run id, no models:/name@alias and no owner/name "
        "on a hub"
    )


def find_checkpoint(layout: DataLayout, text: str | None = None, tracking_uri: str = "") -> Path:
    """Find the checkpoint folder of the model that a person means (``find_model``).

    Raises:
        ArtifactError: there is no such model, or it has no checkpoint here.
    """
    model = find_model(layout, text, tracking_uri)
    if model.checkpoint is None:
        raise ArtifactError(
            f"the model {model.name} ({model.model_id}) has no checkpoint below {layout.runs}; "
            "bring its folder back, or name another model"
        )
    return model.checkpoint


def refuse_namesakes(models: Iterable[tuple[str, str]]) -> None:
    """Refuse, of (name, model_id), two models of one name: scores would not tell them apart.

    Raises:
        ArtifactError: there are such; names them.
    """
    first: dict[str, str] = {}
    for name, model_id in models:
        if first.setdefault(name, model_id) != model_id:
            raise ArtifactError(
                f"two models are called {name} ({first[name]} and {model_id}), and scores would "
                "not tell them apart; name one at a time, then compare them: stems compare A B"
            )


def embedded_corpora(layout: DataLayout, model: FoundModel, conditioning: str) -> list[str]:
    """List the corpora that a model has embedded, with queries of this conditioning."""
    manifests = sorted(layout.embeddings(model.model_id, "x").parent.glob(f"*/{MANIFEST_NAME}"))
    identities = {
        path.parent.name: read_manifest(path.parent, kinds.EMBEDDINGS)["identity"]
        for path in manifests
    }
    return [name for name, x in identities.items() if conditioning in x["conditionings"]]


def _checkpoint(layout: DataLayout, text: str) -> Path | None:
    """Find the checkpoint folder that a name, path, model_id or MLflow run id means, if any."""
    path = Path(text).expanduser()
    index = _index(layout)
    named = [layout.home / index[text]] if text in index else []
    shipped = [kinds.SHIPPED] if text == kinds.STARTER else []
    for folder in (*named, path, path / "model", _fetched(layout, text), *shipped):
        if (folder / MANIFEST_NAME).is_file() and (folder / "config.json").is_file():
            return folder.resolve()
    champion = _champion_folder(layout)
    folders = [
        *([champion] if champion else []),
        *(layout.home / folder for folder in index.values()),
        *(p.parent for p in sorted(layout.runs.glob(f"*/*/{MANIFEST_NAME}"))),
        kinds.SHIPPED,
    ]
    for folder in folders:
        if (folder / MANIFEST_NAME).is_file():
            manifest = read_object(folder / MANIFEST_NAME)
            if text in (manifest.get("model_id"), manifest.get("mlflow_run_id")):
                return folder
    return None


def has_starter() -> bool:
    """Tell whether this installation has the model ``starter``."""
    return (kinds.SHIPPED / MANIFEST_NAME).is_file()


def keep_in_home(layout: DataLayout, checkpoint: Path) -> Path:
    """Copy the model of the package into the runs of a home; any other checkpoint stays.

    The next version of the package may bring another model, and a home must not lose the one that
    it depends on: its champion, or what a training began with.
    """
    if checkpoint != kinds.SHIPPED:
        return checkpoint
    model_id = read_manifest(checkpoint, kinds.MODEL)["model_id"]
    return _copied(checkpoint, layout.runs / f"{kinds.STARTER}-{model_id[:12]}" / "model")


def _copied(checkpoint: Path, folder: Path) -> Path:
    if not (folder / MANIFEST_NAME).is_file():
        with write_folder_aside(folder) as aside:
            shutil.copytree(checkpoint, aside, dirs_exist_ok=True)
    return folder


def _shipped(layout: DataLayout) -> Path:
    if has_starter():
        return kinds.SHIPPED
    raise ArtifactError(
        f"{champion_path(layout)} does not exist: no model was promoted yet, and {_not_shipped()}"
    )


def _not_shipped() -> str:
    return (
        f"the model {kinds.STARTER} is not in this installation (no {MANIFEST_NAME} in "
        f"{kinds.SHIPPED}); train one with make demo, or name a model with --model"
    )


def _champion_folder(layout: DataLayout) -> Path | None:
    """Find the champion's folder, wherever it lies; a damaged ``champion.json`` names none."""
    try:
        champion = current_champion(layout)
    except ArtifactError:
        return None
    return champion and checkpoint_path(layout, champion)


def _of_checkpoint(folder: Path) -> FoundModel:
    manifest = read_manifest(folder, kinds.MODEL)
    name, model_id = manifest.get("name", folder.name), manifest.get("model_id")
    if not isinstance(name, str) or not isinstance(model_id, str):
        raise ArtifactError(
            f"{folder / MANIFEST_NAME} names the model {name!r} with id {model_id!r}, expected two "
            "texts; train again with: stems train"
        )
    config = read_object(folder / "config.json")
    known = {x.name for kind in (TrainingConfig, ImportedConfig) for x in fields(kind)}
    if unknown := sorted(config.keys() - known):
        raise ArtifactError(
            f"{folder / 'config.json'} has the unknown fields {', '.join(unknown)}, expected some "
            f"of: {', '.join(sorted(known))}; use the program that made it, or train again with: "
            "stems train"
        )
    return FoundModel(
        name=name, model_id=model_id, checkpoint=folder, manifest=manifest, config=config
    )


def _fetched(layout: DataLayout, text: str) -> Path:
    """Say where the model of a run lies, or of a hub once it was fetched."""
    return layout.runs / text.replace("/", "--") / "model"


def _of_hub(layout: DataLayout, name: str) -> FoundModel:
    """Fetch a model into the home: the cache of the hub is not known to workers, and is emptied.

    One that does not load is not kept, so that what is published in its place is fetched.
    """
    folder = pretrained_folder(name)
    load_model(folder)
    model = _of_checkpoint(folder)
    return replace(model, checkpoint=_copied(folder, _fetched(layout, name)))


def _embedded(layout: DataLayout, text: str) -> FoundModel | None:
    """Find what has embeddings but no checkpoint: ``spectrum``, ``clap-audio``, by name or id."""
    newest: Sequence[Path] = sorted(
        (layout.home / "embeddings").glob(f"*/*/{MANIFEST_NAME}"), key=lambda p: p.stat().st_mtime
    )
    for path in reversed(newest):
        model_id, name = path.parent.parent.name, read_json(path)["summary"].get("model")
        if text in (model_id, name):
            return FoundModel(name=name or model_id, model_id=model_id)
    return None


def _published(layout: DataLayout, text: str) -> FoundModel | None:
    """Find what has tables but neither checkpoint nor embeddings any more, by its id."""
    known = {path.name for path in layout.lancedb.glob("*") if path.is_dir()}
    return FoundModel(name=text, model_id=text) if text in known else None


def _of_run(layout: DataLayout, run_id: str, tracking_uri: str) -> FoundModel:
    """Find the model of an MLflow run that no checkpoint names, by its tag ``training_id``."""
    tags = _ask_mlflow(tracking_uri, lambda client: client.get_run(run_id).data.tags)
    training = tags.get("training_id", "")
    checkpoint = _checkpoint(layout, training) if training else None
    if checkpoint is None:
        raise ArtifactError(
            f"MLflow run {run_id} trained {training or 'nothing'}, of which {layout.runs} holds no "
            f"finished model; name a home that has it with --home"
        )
    return _of_checkpoint(checkpoint)


def _registered(layout: DataLayout, text: str, tracking_uri: str) -> FoundModel:
    match = _REGISTERED.fullmatch(text)
    if match is None:
        raise ArtifactError(f"{text!r}: expected models:/name@alias or models:/name/version")
    name, alias, version = match["name"], match["alias"], match["version"]
    registered = _ask_mlflow(
        tracking_uri,
        lambda client: (
            client.get_model_version_by_alias(name, alias)
            if alias
            else client.get_model_version(name, version)
        ),
    )
    for known in (registered.tags.get("model_id"), registered.run_id):
        folder = _checkpoint(layout, known) if known else None
        if folder is not None:
            return _of_checkpoint(folder)
    raise ArtifactError(
        f"{text} is version {registered.version}, trained by run "
        f"{registered.run_id or 'unknown'}, whose checkpoint does not lie in {layout.runs}; name a "
        "home that has it with --home"
    )


def _ask_mlflow(uri: str, question: Any) -> Any:
    from mlflow.exceptions import MlflowException

    from ml.mlflow_store import mlflow_client

    try:
        return question(mlflow_client(uri))
    except (MlflowException, OSError) as error:
        raise ArtifactError(f"MLflow at {uri} does not know it: {error}") from None


def _index(layout: DataLayout) -> dict[str, str]:
    """Read ``runs/models.json``; empty before the first training."""
    path = layout.models_index
    index = read_object(path) if path.is_file() else {}
    if not all(isinstance(folder, str) for folder in index.values()):
        raise ArtifactError(f"{path} names no folder for each model; train again with: stems train")
    return index


def read_models(layout: DataLayout) -> dict[str, Path]:
    """Map model names to their checkpoints: ``untrained``, then in the order of ``PRESETS``.

    Raises:
        ArtifactError: nothing has been trained yet.
    """
    if not (index := _index(layout)):
        raise ArtifactError(f"{layout.models_index} does not exist; train first: stems train")
    return {name: layout.home / index[name] for name in (UNTRAINED, *PRESETS) if name in index}


def point_models(layout: DataLayout, preset: str, run: Path) -> None:
    """Let a preset's name stand for the model of a run (and ``untrained`` for its random start)."""
    with lock(layout.runs / ".lock", waits=True):  # of two runs that end at once both are named
        index = _index(layout)
        index[preset] = (run / "model").relative_to(layout.home).as_posix()
        if (run / "initial").is_dir():
            index[UNTRAINED] = (run / "initial").relative_to(layout.home).as_posix()
        write_json(layout.models_index, index)


def phase_1_models(layout: DataLayout) -> list[Path]:
    """List the finished models of phase 1: the one that its name stands for, then the newest."""
    manifests = layout.runs.glob(f"{CONTRASTIVE}-*/model/{MANIFEST_NAME}")
    newest = sorted(manifests, key=lambda path: path.stat().st_mtime, reverse=True)
    named = _index(layout).get(CONTRASTIVE)
    current = [layout.home / named] if named else []
    return list(dict.fromkeys((*current, *(path.parent for path in newest))))


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
    """Resolve the champion's checkpoint folder to an absolute path."""
    return layout.home / champion.checkpoint


def champion_path(layout: DataLayout) -> Path:
    """Say where ``champion.json`` lies."""
    return layout.lancedb / "champion.json"


def read_champion(layout: DataLayout) -> Champion:
    """Read which model queries use.

    Raises:
        ArtifactError: none was promoted yet, or the file is damaged.
    """
    path = champion_path(layout)
    if not path.is_file():
        raise ArtifactError(
            f"{path} does not exist: no model was promoted yet; choose one with: stems promote NAME"
        )
    found = read_object(path)
    try:
        return Champion(**{**found, "withdrawn": tuple(found.get("withdrawn", ()))})
    except (AttributeError, TypeError) as error:
        raise ArtifactError(
            f"{path} does not describe a champion ({error}); delete it and promote again"
        ) from None


def current_champion(layout: DataLayout) -> Champion | None:
    """Read which model queries use; None before the first promotion.

    Raises:
        ArtifactError: the file is damaged.
    """
    return read_champion(layout) if champion_path(layout).is_file() else None
