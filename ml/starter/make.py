"""Makes the shipped model of a trained one, ``python -m ml.starter.make RUN``: bf16, card, record.

Parameters are rounded to bf16; buffers (running means, what the log-mel has measured) stay float32.
A target encoder of which no vector is made (``song_share``) is left out, and content hashes of
training songs are cut to the digits that are compared. What names other artifacts of the home it
was trained in (shards, runs of MLflow) is in the record, not in the manifest.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml import kinds
from ml.artifacts import (
    CONTENT_DIGITS,
    Artifact,
    ArtifactError,
    read_manifest,
    write_aside,
    write_folder_aside,
    write_json,
)
from ml.models.pretrained import CARRIED, card_text, save_checkpoint
from ml.models.stem_jepa import load_model
from ml.settings import LabelEncoderSettings, Settings, existing_home, load_settings
from ml.training.export import card_facts
from ml.training.models import find_checkpoint

CARD_NAME, RUN_NAME = "MODEL_CARD.md", "run.json"
MAX_BYTES = 6_000_000
"""Of the folder ``model``."""


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
    facts = card_facts(settings, manifest, made["model_id"], manifest["model_id"])
    write_json(folder / RUN_NAME, {"model_id": made["model_id"], "runs": facts["runs"]})
    with write_aside(folder / CARD_NAME) as card:
        text = card_text(folder / "model", is_shipped=True, **facts)
        card.write_text(text, encoding="utf-8")
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
    if model.has_song_part:
        model.target_encoder = None
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    origin = {name: manifest[name] for name in CARRIED if name in manifest}
    origin["training_tracks"] = [
        track | {"content_hash": [x[:CONTENT_DIGITS] for x in track["content_hash"]]}
        for track in manifest["training_tracks"]
    ]
    named = {"name": kinds.STARTER, "version": version, "made_from": manifest["model_id"]}
    return save_checkpoint(path, model, model.described, origin=origin | named)


def get_parser() -> argparse.ArgumentParser:
    """Make the parser of ``python -m ml.starter.make``."""
    parser = argparse.ArgumentParser(
        prog="python -m ml.starter.make",
        description="Write the weights of a trained model as bf16 to ml/starter/model, with its "
        "card and its record. The card has the figures that this home has of the shipped model "
        "(stems evaluate retrieval --models starter), else of the run: run it again after scoring.",
    )
    parser.add_argument("model", metavar="RUN", help="a name, a run, a checkpoint folder, an id")
    parser.add_argument("--version", default="1", help="of the model, in its card (default: 1)")
    parser.add_argument("--home", type=Path, help="of the run (default: STEMS_HOME, else ./data)")
    return parser


def main() -> int:
    """Make it; 0 done, 2 wrong use."""
    args = get_parser().parse_args()
    try:
        settings = load_settings(existing_home(args.home))
        made = make_starter(settings, args.model, version=args.version)
    except ValueError as error:
        print(f"python -m ml.starter.make: {error}", file=sys.stderr)
        return 2
    print(f"{made.path} is made: model {made.fingerprint}, {made.summary['n_bytes'] / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
