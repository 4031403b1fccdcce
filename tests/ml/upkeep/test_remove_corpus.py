"""A corpus is removed from all that was made of it, and nothing else is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lancedb
import pytest
import yaml

from ml import upkeep
from ml.artifacts import ArtifactError, DataLayout
from ml.cli.main import main
from ml.corpora.corpus import open_corpus
from ml.corpora.label_embeddings import read_label_vectors
from ml.corpora.registration import add_corpus, drop_corpus
from ml.corpora.table import build_corpus_tracks
from ml.locks import lock
from ml.models.stem_jepa import load_model
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.tables.database import database_uri
from ml.retrieval.tables.publish import CHUNK_TABLE, STEM_TABLE, count_rows, publish_corpus
from ml.settings import SettingsError, load_settings
from ml.training.models import read_models
from ml.upkeep import remove_corpus

CONFIG = """\
# mine
corpora:
  demo: {kind: demo, root: corpora/demo}
  # with effects
  demo-plain:
    kind: demo

    root: corpora/demo-plain

  # the last one
  demo-swapped: {kind: demo, root: corpora/demo-swapped}
shards: {payload: pcm16}
"""


@pytest.fixture
def layout(home: Path) -> DataLayout:
    """A home that has published two corpora by two models."""
    (home / "config.yaml").write_text(CONFIG)
    layout = load_settings(home).layout
    for name in ("demo", "demo-plain"):
        build_corpus_tracks(name, open_corpus("demo", layout.corpora / name), layout)
        models = [load_model(read_models(layout)[preset]) for preset in ("film", "film-nce")]
        embed_corpus(name, models, layout, read_label_vectors(layout, name))
        for model in models:
            publish_corpus(layout, model.model_id, name)
    return layout


def uris(layout: DataLayout) -> list[str]:
    return [database_uri(layout, path.name) for path in sorted(layout.lancedb.iterdir())]


def rows(layout: DataLayout, corpus: str) -> list[int]:
    tables = (STEM_TABLE, CHUNK_TABLE)
    return [count_rows(uri, table, corpus) for uri in uris(layout) for table in tables]


def traces(home: Path, name: str) -> list[Path]:
    """Folders of this name, except the songs themselves."""
    return [path for path in home.rglob(name) if path.is_dir() and home / "corpora" != path.parent]


def test_removed_everywhere_and_only_there(layout: DataLayout, capsys: pytest.CaptureFixture[str]):
    kept = {uri: stems(uri, "demo") for uri in uris(layout)}
    assert all(kept.values())
    songs = sorted(path for path in layout.corpora.rglob("*") if path.is_file())
    assert main(["--home", str(layout.home), "corpus", "remove", "demo-plain", "--delete"]) == 0
    said = capsys.readouterr().out
    assert f"removed, also from {layout.config_path}" in said
    assert rows(layout, "demo-plain") == [0, 0, 0, 0]
    assert traces(layout.home, "demo-plain") == []
    assert {uri: stems(uri, "demo") for uri in uris(layout)} == kept
    assert sorted(path for path in layout.corpora.rglob("*") if path.is_file()) == songs
    assert "demo-plain" not in load_settings(layout.home).corpora
    text = layout.config_path.read_text()
    assert "# mine\n" in text
    assert "\n  # the last one\n" in text
    assert "demo-plain" not in text
    assert main(["--home", str(layout.home), "corpus", "remove", "demo-plain"]) == 2
    assert "holds nothing of a corpus 'demo-plain'" in capsys.readouterr().err


def stems(uri: str, corpus: str) -> list[str]:
    table = lancedb.connect(uri).open_table(STEM_TABLE)
    return sorted(table.search().where(f"corpus = '{corpus}'").to_arrow()["key"].to_pylist())


def test_without_delete_nothing_goes(layout: DataLayout, capsys: pytest.CaptureFixture[str]):
    before = rows(layout, "demo-plain")
    assert main(["--home", str(layout.home), "corpus", "remove", "demo-plain"]) == 0
    said = capsys.readouterr().out
    assert "nothing is removed without --delete" in said
    assert str(layout.tracks("demo-plain")) in said
    assert rows(layout, "demo-plain") == before
    assert layout.config_path.read_text() == CONFIG


def test_interrupted_it_goes_on(layout: DataLayout, monkeypatch: pytest.MonkeyPatch):
    settings = load_settings(layout.home)
    left = [3]

    def dying(path: Path) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        shutil.rmtree(path)

    with monkeypatch.context() as patch:
        patch.setattr(upkeep.shutil, "rmtree", dying)
        with pytest.raises(KeyboardInterrupt):
            remove_corpus(settings, "demo-plain", delete=True)
    monkeypatch.undo()
    assert traces(layout.home, "demo-plain")
    remove_corpus(settings, "demo-plain", delete=True)
    assert traces(layout.home, "demo-plain") == []
    assert set(rows(layout, "demo-plain")) == {0}


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        ({"training": {"corpora": ["demo-plain"]}}, "training.corpora"),
        ({"beats": {"heldout": ["demo-plain"]}}, "beats.heldout"),
        ({"promotion": {"gallery": ["demo-plain"]}}, "promotion.gallery"),
    ],
)
def test_what_is_needed_is_refused(home: Path, overrides: dict[str, Any], place: str):
    with pytest.raises(SettingsError, match=f"'demo-plain' is named by {place} in .*take it out"):
        remove_corpus(load_settings(home, overrides), "demo-plain", delete=True)


def test_shards_that_a_run_was_trained_on_stay(layout: DataLayout):
    settings = load_settings(
        layout.home, {"training": {"corpora": ["demo-plain"]}, "beats": {"corpora": []}}
    )
    removal = remove_corpus(settings, "demo", delete=True)
    assert "training runs name it, such as film-tiny-" in removal.kept[0]
    assert layout.shards("demo").is_dir()
    for run in layout.runs.iterdir():
        if run.is_dir():
            shutil.rmtree(run)
    remove_corpus(settings, "demo", delete=True)
    assert not layout.shards("demo").exists()


def test_what_is_being_made_is_not_removed(layout: DataLayout):
    with (
        lock(layout.tracks("demo-plain") / ".lock"),
        pytest.raises(RuntimeError, match="is being written by process"),
    ):
        remove_corpus(load_settings(layout.home), "demo-plain", delete=True)
    assert layout.tracks("demo-plain").is_dir()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *((name, "holds nothing of a corpus") for name in ("*", "demo*", "[d]emo-plain", "?")),
        *((name, "is no name of a corpus") for name in ("..", ".", "a/b", "/", "")),
    ],
)
def test_a_pattern_or_a_path_removes_nothing(layout: DataLayout, name: str, said: str):
    before = rows(layout, "demo-plain"), traces(layout.home, "demo-plain")
    with pytest.raises((ArtifactError, SettingsError), match=said):
        remove_corpus(load_settings(layout.home), name, delete=True)
    assert (rows(layout, "demo-plain"), traces(layout.home, "demo-plain")) == before


def test_a_corpus_nobody_knows(tmp_path: Path):
    with pytest.raises(ArtifactError, match="nothing of a corpus 'x'; known: demo, demo-plain"):
        remove_corpus(load_settings(tmp_path), "x")


@pytest.mark.parametrize("name", ["demo", "demo-plain", "demo-swapped"])
def test_an_entry_leaves_the_file_and_nothing_else_does(tmp_path: Path, name: str):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    assert drop_corpus(load_settings(tmp_path), name) == path
    wanted = yaml.safe_load(CONFIG)
    del wanted["corpora"][name]
    assert yaml.safe_load(path.read_text()) == wanted
    removed = set(CONFIG.splitlines()) - set(path.read_text().splitlines())
    assert all(name in line or "kind" in line for line in removed)
    assert drop_corpus(load_settings(tmp_path), name) is None


def test_the_default_corpora_are_written_without_it(tmp_path: Path):
    drop_corpus(load_settings(tmp_path), "demo-swapped")
    assert sorted(load_settings(tmp_path).corpora) == ["demo", "demo-plain"]


def test_the_last_entry_leaves_an_empty_list(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("corpora:\n  mine: {kind: folder, root: x}\nshards: {payload: flac}\n")
    drop_corpus(load_settings(tmp_path), "mine")
    assert yaml.safe_load(path.read_text()) == {"corpora": {}, "shards": {"payload": "flac"}}
    add_corpus(load_settings(tmp_path), "again", kind="folder", root=tmp_path, options={})
    assert sorted(load_settings(tmp_path).corpora) == ["again"]


def test_a_file_in_another_style_is_left_alone(tmp_path: Path):
    path = tmp_path / "config.yaml"
    text = "corpora: {mine: {kind: folder, root: x}}\n"
    path.write_text(text)
    with pytest.raises(SettingsError, match="cannot be edited safely; take 'mine' out"):
        drop_corpus(load_settings(tmp_path), "mine")
    assert path.read_text() == text
