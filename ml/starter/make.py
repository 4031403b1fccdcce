"""Makes the shipped model of a trained one: weights as bf16, a card, a record.

Parameters are rounded to bf16; buffers (running means, what the log-mel has measured) stay float32.
A target encoder of which no vector is made (``song_share``) is left out. What names other artifacts
of the home it was trained in (shards, runs of MLflow) is in the record, not in the manifest.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml import kinds
from ml.artifacts import (
    Artifact,
    ArtifactError,
    DataLayout,
    file_fingerprint,
    read_json,
    read_manifest,
    write_aside,
    write_folder_aside,
    write_json,
)
from ml.models.stem_jepa import load_model
from ml.plain import dataclass_from
from ml.scores.files import read_scores
from ml.settings import LabelEncoderSettings, Settings
from ml.training.checkpoints import save_checkpoint
from ml.training.config import TrainingConfig
from ml.training.models import find_checkpoint
from ml.training.run_folder import RECORD_NAME, read_record, read_run

CARD_NAME, RUN_NAME = "MODEL_CARD.md", "run.json"
MAX_BYTES = 6_000_000
"""Of the folder ``model``."""
WEIGHTS_NAME = "model.safetensors"
_CARRIED = ("label_encoder", "size", "seed", "training_tracks", "training_labels")
"""What of the manifest holds wherever the model is used."""


def make_starter(
    settings: Settings, text: str, *, version: str = "1", folder: Path | None = None
) -> Artifact:
    """Write the model, its card and its record.

    Args:
        settings: of the home that has the model, and perhaps scores of it.
        text: the model, as ``find_model`` takes it.
        version: stands in card and manifest.
        folder: where; default: where this package ships it.

    Returns:
        The checkpoint folder; its summary has ``n_bytes``.

    Raises:
        ArtifactError: there is no such model, it is larger than ``MAX_BYTES``, or needs a label
            encoder that does not come with the package.
    """
    layout, folder = settings.layout, folder or kinds.SHIPPED.parent
    source = find_checkpoint(layout, text)
    manifest = read_manifest(source, kinds.MODEL)
    _check_label_encoder(source, manifest)
    with tempfile.TemporaryDirectory(prefix="starter-") as aside:
        made = _write_model(source, manifest, Path(aside) / "model", version)
        n_bytes = sum(path.stat().st_size for path in (Path(aside) / "model").iterdir())
        if n_bytes > MAX_BYTES:
            raise ArtifactError(
                f"{source} makes a folder of {n_bytes:,d} bytes, expected at most {MAX_BYTES:,d}; "
                "train a smaller model"
            )
        with write_folder_aside(folder / "model") as place:
            shutil.copytree(Path(aside) / "model", place, dirs_exist_ok=True)
    runs = list(_runs(layout, manifest))
    write_json(folder / RUN_NAME, {"model_id": made["model_id"], "runs": runs})
    facts = {
        "version": version,
        "model_id": made["model_id"],
        "n_bytes": n_bytes,
        "sha256": file_fingerprint(folder / "model" / WEIGHTS_NAME),
        "config": read_json(folder / "model" / "config.json"),
        "runs": runs,
        "kinds": {name: corpus.kind for name, corpus in settings.corpora.items()},
        "figures": list(_figures(layout, made["model_id"], manifest["model_id"])),
        "label_encoder": manifest["label_encoder"],
    }
    with write_aside(folder / CARD_NAME) as card:
        card.write_text(_card(facts), encoding="utf-8")
    return Artifact(
        path=folder / "model", fingerprint=made["model_id"], summary={"n_bytes": n_bytes}
    )


def _check_label_encoder(source: Path, manifest: Mapping[str, Any]) -> None:
    needed, shipped = manifest["label_encoder"].get("name"), LabelEncoderSettings().name
    if needed != shipped:
        raise ArtifactError(
            f"{source} was trained with the label encoder {needed}, expected {shipped}, which "
            "comes with the package; train with that"
        )


def _write_model(
    source: Path, manifest: Mapping[str, Any], path: Path, version: str
) -> dict[str, Any]:
    model = load_model(source)
    config = dataclass_from(TrainingConfig, read_json(source / "config.json"))
    if model.has_song_part:
        model.target_encoder = None
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    origin = {name: manifest[name] for name in _CARRIED if name in manifest}
    named = {"name": kinds.STARTER, "version": version, "made_from": manifest["model_id"]}
    return save_checkpoint(path, model, config, origin=named | origin)


def _runs(layout: DataLayout, manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what is known of the runs behind a model, phase 1 first; no paths of this machine."""
    if phase_1 := manifest.get("phase_1_model_id"):
        yield from _runs(layout, read_json(find_checkpoint(layout, phase_1) / "manifest.json"))
    if "run" not in manifest:
        return  # it came with a package itself
    folder = layout.runs / manifest["run"]
    described = read_run(folder)
    last: dict[str, Any] = {}
    for line in read_record(folder / RECORD_NAME):
        last |= line["metrics"] | {"step": line["step"]}
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
        "last_metrics": last,
    }


def _figures(layout: DataLayout, *model_ids: str) -> Iterator[dict[str, Any]]:
    """Yield the scores of retrieval of the first of some models that a corpus was scored with.

    The corpora that the first model was scored on, where there are any, else those of the others.
    """
    scored = list(_scored(layout, *model_ids))
    yield from [row for row in scored if row["is_shipped"]] or scored


def _scored(layout: DataLayout, *model_ids: str) -> Iterator[dict[str, Any]]:
    for folder in sorted(layout.scores("retrieval", "x").parent.glob("*")):
        models = read_manifest(folder, kinds.SCORES)["identity"]["models"]
        names = {model_id: name for name, model_id in models}
        found = next((model_id for model_id in model_ids if model_id in names), None)
        if found is None:
            continue
        rows = read_scores(layout, evaluation="retrieval", corpus=folder.name)
        own = [r for r in rows if r["model"] == names[found] and r["conditioning"] == "fine"]
        metrics = {row["metric"]: row for row in own}
        yield {"corpus": folder.name, "is_shipped": found == model_ids[0], "metrics": metrics}


def _card(facts: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    card = environment.get_template("card.md.jinja")
    return card.render(facts, interval=_interval_text, within=_within_text).rstrip() + "\n"


def _within_text(metrics: Mapping[str, Mapping[str, float]], name: str) -> str:
    return _interval_text(metrics[name]) if name in metrics else "–"


def _interval_text(row: Mapping[str, float]) -> str:
    return f"{row['value']:.1f} ({row['low']:.1f} to {row['high']:.1f})"
