"""Artifacts of older formats are rewritten, named, or left alone; nothing is made again for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ml.artifacts import MANIFEST_NAME, DataLayout, read_json, write_json
from ml.cli.main import main
from ml.corpora import table
from ml.corpora.corpus import open_corpus
from ml.corpora.labels import read_label_vectors
from ml.corpora.table import build_corpus_tracks
from ml.locks import LockedError, lock
from ml.models.stem_jepa import load_model
from ml.retrieval.embed import embed_corpus
from ml.settings import load_settings
from ml.shards.writer import ShardConfig, build_shards
from ml.training.model_index import read_models
from ml.upkeep import migrations
from ml.upkeep.migrations import Kind, known_kinds, migrate


@pytest.fixture
def layout(home: Path) -> DataLayout:
    """A home with tables, shards, models and embeddings of one corpus."""
    made = load_settings(home).layout
    build_all(made)
    return made


def build_all(layout: DataLayout) -> list[bool]:
    """Whether each artifact from the table to the embeddings was reused."""
    corpus = open_corpus("demo", layout.corpora / "demo")
    models = [load_model(read_models(layout)["film"])]
    made = [
        build_corpus_tracks("demo", corpus, layout),
        build_shards("demo", layout, ShardConfig(payload="pcm16")),
        *embed_corpus("demo", models, layout, read_label_vectors(layout, "demo")),
    ]
    return [artifact.reused for artifact in made]


def note(folder: Path, manifest: Any) -> Any:
    """A step that leaves a trace in a file and in the manifest."""
    (folder / "note.txt").write_text("migrated")
    return {**manifest, "note": "migrated"}


STEPS = {("corpus tracks", 1): note, ("corpus tracks", 2): note}


def raised(version: int) -> list[Kind]:
    """The kinds as if the tables had another format."""
    return [
        Kind(name=k.name, folders=k.folders, remedy=k.remedy, version=version)
        if k.name == "corpus tracks"
        else k
        for k in known_kinds()
    ]


def test_a_home_of_this_program_is_current(layout: DataLayout, capsys: pytest.CaptureFixture[str]):
    before = snapshot(layout.home)
    assert main(["--home", str(layout.home), "migrate"]) == 0
    *named, last = capsys.readouterr().out.splitlines()
    assert named == []
    n = int(last.split()[0])
    assert last == f"{n} artifacts: {n} current"
    assert n == sum(1 for path in layout.home.rglob(MANIFEST_NAME) if "mlflow" not in path.parts)
    assert snapshot(layout.home) == before


def test_a_raised_format_makes_nothing_again(layout: DataLayout, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table, "FORMAT_VERSION", 3)
    found = migrate(layout, kinds=raised(3), steps=STEPS)
    assert {x.outcome for x in found if x.kind.name == "corpus tracks"} == {"upgraded"}
    manifest = read_json(layout.tracks("demo") / MANIFEST_NAME)
    assert (manifest["format_version"], manifest["note"]) == (3, "migrated")
    assert all(build_all(layout))
    assert {x.outcome for x in migrate(layout, kinds=raised(3), steps=STEPS)} == {"current"}


def test_without_the_names_of_inputs_everything_would_be_made_again(
    layout: DataLayout, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(table, "FORMAT_VERSION", 3)
    monkeypatch.setattr(migrations, "_rename_inputs", lambda *_: None)
    migrate(layout, kinds=raised(3), steps=STEPS)
    assert build_all(layout) == [True, False, False]


def test_an_interrupted_migration_goes_on(layout: DataLayout, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table, "FORMAT_VERSION", 2)
    written: list[Path] = []

    def killed_at_the_third(path: Path, value: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write_json(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "write_json", killed_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            migrate(layout, kinds=raised(2), steps=STEPS)
    migrate(layout, kinds=raised(2), steps=STEPS)
    assert all(build_all(layout))


def test_a_dry_run_changes_nothing(layout: DataLayout):
    before = snapshot(layout.home)
    found = migrate(layout, kinds=raised(2), steps=STEPS, dry_run=True)
    assert "upgraded" in {x.outcome for x in found}
    assert snapshot(layout.home) == before


def test_what_is_being_written_is_not_migrated(layout: DataLayout):
    with (
        lock(layout.tracks("demo") / ".lock"),
        pytest.raises(LockedError, match="tracks/demo is being written by process"),
    ):
        migrate(layout, kinds=raised(2), steps=STEPS)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (2, "tracks/demo: format 2, this program writes 1: update the program"),
        ("two", "tracks/demo: its manifest names no format: make it again with: stems corpus"),
    ],
)
def test_what_cannot_be_read_is_said(
    layout: DataLayout, written: object, said: str, capsys: pytest.CaptureFixture[str]
):
    path = layout.tracks("demo") / MANIFEST_NAME
    write_json(path, {**read_json(path), "format_version": written})
    before = snapshot(layout.home)
    assert main(["--home", str(layout.home), "migrate"]) == 1
    assert capsys.readouterr().out.startswith(said)
    assert snapshot(layout.home) == before


def test_an_older_format_without_a_step_says_what_makes_it_again(
    layout: DataLayout, capsys: pytest.CaptureFixture[str]
):
    path = layout.tracks("demo") / MANIFEST_NAME
    write_json(path, {**read_json(path), "format_version": 0})
    assert main(["--home", str(layout.home), "migrate"]) == 0
    said = capsys.readouterr().out
    assert "tracks/demo: format 0, this program writes 1: make it again with: stems corpus" in said
    assert json.loads(path.read_text())["format_version"] == 0


def test_an_empty_home(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--home", str(tmp_path), "migrate"]) == 0
    assert capsys.readouterr().out == "no artifacts yet\n"


def test_every_artifact_is_of_a_known_kind(home: Path):
    """A new kind of artifact must be added to ``known_kinds``."""
    shutil.rmtree(home / "mlflow", ignore_errors=True)
    known = {folder for kind in known_kinds() for folder in home.glob(kind.folders)}
    assert {path.parent for path in home.rglob(MANIFEST_NAME)} <= known


def snapshot(home: Path) -> dict[str, bytes]:
    """Every file that is not a lock."""
    files = (path for path in home.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(home)): path.read_bytes() for path in files}
