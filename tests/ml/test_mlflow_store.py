"""A store of MLflow is whole or not there."""

from pathlib import Path

import mlflow
import pytest

from ml.mlflow_store import mlflow_client


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
