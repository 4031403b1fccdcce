from pathlib import Path

import pytest

from assets_def.resources import StemsHome
from ml.corpora.corpus import open_corpus
from ml.corpora.table import build_corpus_tracks, read_corpus_tracks
from ml.settings import load_settings
from pipelines import run
from pipelines.jobs import has_unseen_tracks


def songs_as_manifest(home: Path, split: str) -> Path:
    """The demo songs of a split as a CSV under other names: the same recordings."""
    table = read_corpus_tracks(load_settings(home).layout, "demo")
    songs = home / "corpora" / "demo" / "songs"
    rows = [
        f"again-{track},{songs / track / Path(files[0]).name},"
        for track, files, of in table["track_id", "files", "split"].iter_rows()
        if of == split
    ]
    path = home / f"{split}.csv"
    path.write_text("\n".join(["track_id,audio,labels", *rows]) + "\n")
    return path


@pytest.mark.parametrize(("split", "is_unseen"), [("train", False), ("test", True)])
def test_tracks_count_as_seen_by_their_sound(home: Path, split: str, is_unseen: bool):
    resource = StemsHome(home=str(home))
    corpus = open_corpus("manifest", songs_as_manifest(home, split))
    build_corpus_tracks("again", corpus, resource.layout)
    assert has_unseen_tracks(resource, "again") == is_unseen


def test_without_a_model_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        run.main(["mine", "folder", str(tmp_path), "--home", str(tmp_path / "home")])
    assert stopped.value.code == 2
    assert "--train" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


def test_training_corpora_are_joined(tmp_path: Path):
    settings = load_settings(tmp_path)
    args = run.get_parser().parse_args(["mine", "folder", "x", "--train", "--steps", "3"])
    assert run.chosen_settings(settings, args) == {
        "training": {"corpora": ["demo", "mine"], "overrides": {"steps": 3}}
    }
    args = run.get_parser().parse_args(["mine", "folder", "x"])
    assert run.chosen_settings(settings, args) == {}
