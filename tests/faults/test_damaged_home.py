"""A home in which files were damaged: each is refused in one sentence that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ml.artifacts import ArtifactError, DataLayout, find_current, read_manifest
from ml.cli.main import main
from ml.kinds import MODEL
from ml.models.stem_jepa import load_model
from ml.training.checkpoints import STATE_NAME, load_training_state
from ml.training.models import find_model

pytestmark = pytest.mark.faults

Change = Callable[[dict[str, Any]], Any]


def changed(path: Path, change: Change) -> None:
    content = json.loads(path.read_text())
    found = change(content)
    path.write_text(json.dumps(content if found is None else found))


@pytest.fixture
def checkpoint(home: Path) -> Path:
    return find_model(DataLayout(home=home), "film").checkpoint or home


@pytest.mark.parametrize(
    "change",
    [
        lambda _: [],
        lambda _: "film",
        lambda config: config.pop("model"),
        lambda config: config.update(model=[1]),
        lambda config: config["model"].update(chunk_s="long"),
        lambda config: config["model"].update(chunk_s=True),
        lambda config: config["model"]["encoder"].update(layers=1.5),
        lambda config: config["model"]["encoder"].update(heads=0),
        lambda config: config["model"].update(encoder=None),
        lambda config: config["model"].update(unknown=1),
    ],
)
def test_a_configuration_of_other_types_is_refused(checkpoint: Path, change: Change):
    def keep(content: dict[str, Any]) -> Any:
        found = change(content)
        return found if found in ([], "film") else None

    changed(checkpoint / "config.json", keep)
    with pytest.raises(ArtifactError, match=str(checkpoint)):
        load_model(checkpoint)


def test_unknown_fields_of_a_checkpoint_are_refused(home: Path, checkpoint: Path, capsys: Any):
    changed(checkpoint / "config.json", lambda config: config.update(optimiser={}))
    assert main(["--home", str(home), "embed", "demo", "--models", "film"]) == 2
    said = capsys.readouterr().err
    assert f"{checkpoint / 'config.json'} has the unknown fields optimiser" in said


@pytest.mark.parametrize("content", ["[]", "3", '"x"', "{", "[" * 100_000, "", "\xff"])
def test_a_manifest_of_other_types_is_refused(checkpoint: Path, content: str):
    (checkpoint / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        read_manifest(checkpoint, MODEL)
    assert find_current(checkpoint, {}, MODEL) is None


@pytest.mark.parametrize("content", ["[]", '{"film": 3}'])
def test_an_index_of_models_of_other_types_is_refused(home: Path, content: str):
    (home / "runs" / "models.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"models\.json"):
        find_model(DataLayout(home=home), "film")


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x80\x02.", b"\x80\x02]q\x00.", b"words"]
)
def test_a_damaged_training_state_is_refused(checkpoint: Path, content: bytes):
    (checkpoint / STATE_NAME).write_bytes(content)
    with pytest.raises(ArtifactError, match="delete this checkpoint"):
        load_training_state(checkpoint)


def test_a_training_state_that_is_none_is_refused(checkpoint: Path):
    torch.save([1], checkpoint / STATE_NAME)
    with pytest.raises(ArtifactError, match="delete this checkpoint"):
        load_training_state(checkpoint)
    whole = checkpoint / STATE_NAME
    torch.save({"step": 1}, whole)
    for size in (10, 100, whole.stat().st_size // 2):
        whole.write_bytes(whole.read_bytes()[:size])
        with pytest.raises(ArtifactError, match="delete this checkpoint"):
            load_training_state(checkpoint)


def test_who_only_looks_writes_nothing(home: Path):
    """As on a disk that cannot be written to."""
    for path in home.rglob(".lock"):
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in (home, *home.rglob("*"))}
    assert main(["--home", str(home), "gc"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (home, *home.rglob("*"))} == before
