"""A store of MLflow is whole or not there, and a copied one is of the home that it lies in."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from ml import mlflow_store
from ml.mlflow_store import find_or_make_experiment, mlflow_client


def test_a_store_whose_making_was_stopped_is_made_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow" / "mlflow.db"
    made = mlflow.MlflowClient.search_experiments

    def stopped(*args: object, **options: object) -> None:
        made(*args, **options)  # pyright: ignore[reportArgumentType]
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow.MlflowClient, "search_experiments", stopped)
    with pytest.raises(KeyboardInterrupt):
        mlflow_client(f"sqlite:///{path}")
    assert not path.exists()
    (path.parent / ".mlflow.db.1.tmp").touch()  # another that was killed
    monkeypatch.undo()
    client = mlflow_client(f"sqlite:///{path}")
    assert {p.name for p in path.parent.iterdir()} == {"mlflow.db", ".mlflow.db.lock"}
    assert [e.name for e in client.search_experiments()] == ["Default"]


def tracked(home: Path) -> str:
    """Track a run with one file in a home, as another process; gives the run's id."""
    (home / "runs").mkdir(parents=True)
    client = mlflow_client(f"sqlite:///{home}/mlflow/mlflow.db")
    run = client.create_run(find_or_make_experiment(client, "stems")).info
    folder = Path(run.artifact_uri.removeprefix("file://"))
    folder.mkdir(parents=True)  # a client would remember for this process where it lies
    (folder / "first.txt").write_text("as it was")
    return run.run_id


def below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copied_home_never_writes_into_the_one_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracked(tmp_path / "home")
    copy = shutil.copytree(tmp_path / "home", tmp_path / "copy")
    before, uri = below(tmp_path / "home"), f"sqlite:///{copy}/mlflow/mlflow.db"
    monkeypatch.setattr(mlflow_store, "WAITS_S", 0.1)
    with closing(sqlite3.connect(copy / "mlflow" / "mlflow.db")) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(MlflowException, match=r"database is locked.*stems migrate"):
            mlflow_client(uri)
    client = mlflow_client(uri)
    client.log_text(run, "of the copy", "second.txt")
    other = client.create_run(find_or_make_experiment(client, "stems")).info.run_id
    client.log_text(other, "of the copy", "third.txt")
    assert below(tmp_path / "home") == before
    assert {path.name for path in below(copy / "mlflow" / "artifacts")} == {
        *("first.txt", "second.txt", "third.txt")
    }
    assert {file.path for file in client.list_artifacts(run)} == {"first.txt", "second.txt"}
    # A store that somebody keeps elsewhere is of no home: its addresses are theirs.
    kept = shutil.copytree(tmp_path / "home" / "mlflow", tmp_path / "server" / "mlflow")
    theirs = mlflow_client(f"sqlite:///{kept}/mlflow.db").get_experiment_by_name("stems")
    assert theirs.artifact_location == (tmp_path / "home" / "mlflow" / "artifacts").as_uri()


@pytest.mark.parametrize("name", ["who?", "a%20b"])
def test_a_path_that_mlflow_would_take_for_another_is_refused(tmp_path: Path, name: str):
    with pytest.raises(MlflowException, match="rename it"):
        mlflow_client(f"sqlite:///{tmp_path / name / 'mlflow' / 'mlflow.db'}")
    assert list(tmp_path.iterdir()) == []


def test_other_names_are_names(tmp_path: Path):
    name = "My Drive #2: 50% off, it's & co"
    database = tmp_path / name / "mlflow.db"
    database.parent.mkdir()
    mlflow_client(f"sqlite:///{database}").search_experiments()
    assert database.is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
