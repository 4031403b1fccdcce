"""A model of a home as a folder for others, and what its card says of training and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml import kinds
from ml.artifacts import Artifact, ArtifactError, DataLayout, read_json, read_manifest
from ml.models.stem_jepa import load_model
from ml.scores.files import read_scores, scored_corpora, scored_models
from ml.training.models import find_checkpoint
from ml.training.run_folder import RECORD_NAME, last_metrics, read_run

if TYPE_CHECKING:
    from ml.settings import Settings


def export_model(settings: Settings, text: str, folder: Path) -> Artifact:
    """Write a model as ``StemJepa.save_pretrained`` does, with a card of what the home knows of it.

    Args:
        settings: of the home.
        text: the model, as ``find_model`` takes it.
        folder: where.

    Returns:
        The folder; its summary has ``n_bytes``.

    Raises:
        ArtifactError: there is no such model, it is damaged, or something else lies in ``folder``.
    """
    source = find_checkpoint(settings.layout, text, settings.tracking_uri)
    model, manifest = load_model(source), read_manifest(source, kinds.MODEL)
    model.save_pretrained(folder, model_card_kwargs=card_facts(settings, manifest, model.model_id))
    n_bytes = sum(path.stat().st_size for path in folder.iterdir())
    model_id = read_manifest(folder, kinds.MODEL)["model_id"]
    return Artifact(path=folder, fingerprint=model_id, summary={"n_bytes": n_bytes})


def card_facts(settings: Settings, manifest: Mapping[str, Any], *model_ids: str) -> dict[str, Any]:
    """Gather what a home knows of a model, as ``ml.models.pretrained.card_text`` takes it.

    Args:
        settings: of the home.
        manifest: of the checkpoint that was trained.
        model_ids: whose figures count, the card's own model first.
    """
    return {
        "runs": list(_runs(settings.layout, manifest)),
        "corpora": {name: corpus.kind for name, corpus in settings.corpora.items()},
        "figures": list(_figures(settings.layout, *model_ids)),
    }


def _runs(layout: DataLayout, manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what is known of the runs behind a model, phase 1 first; no paths of this machine."""
    if phase_1 := manifest.get("phase_1_model_id"):
        yield from _runs(layout, _manifest_of(layout, phase_1))
    folder = layout.runs / manifest.get("run", "")
    if "run" not in manifest or not folder.is_dir():
        return  # it came with a package, or from another home
    described = read_run(folder)
    yield {
        "run": folder.name,
        "model_id": manifest["model_id"],
        "step": manifest.get("step", described["identity"]["config"]["steps"]),
        "identity": described["identity"],
        "git_revision": described.get("tags", {}).get("git_revision", ""),
        "datasets": [
            {name: value for name, value in dataset.items() if name != "manifest"}
            for dataset in described.get("datasets", ())
        ],
        "last_metrics": last_metrics(folder / RECORD_NAME),
    }


def _manifest_of(layout: DataLayout, model_id: str) -> Mapping[str, Any]:
    try:
        return read_json(find_checkpoint(layout, model_id) / "manifest.json")
    except ArtifactError:
        return {}  # it is not here any more


def _figures(layout: DataLayout, *model_ids: str) -> Iterator[dict[str, Any]]:
    """Yield the scores of retrieval of the first of some models that a corpus was scored with.

    The corpora that the first model was scored on, where there are any, else those of the others.
    """
    scored = list(_scored(layout, *model_ids))
    yield from [row for row in scored if row["is_own"]] or scored


def _scored(layout: DataLayout, *model_ids: str) -> Iterator[dict[str, Any]]:
    for corpus in scored_corpora(layout, "retrieval"):
        scored = scored_models(layout, "retrieval", corpus)
        names = {model_id: name for name, model_id in scored.items()}
        found = next((model_id for model_id in model_ids if model_id in names), None)
        if found is None:
            continue
        rows = read_scores(layout, evaluation="retrieval", corpus=corpus)
        own = [r for r in rows if r["model"] == names[found] and r["conditioning"] == "fine"]
        if metrics := {row["metric"]: row for row in own}:
            yield {"corpus": corpus, "is_own": found == model_ids[0], "metrics": metrics}
