from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs; making one takes seconds."""
    from ml.mlflow_store import find_or_make_experiment, mlflow_client

    folder = tmp_path_factory.mktemp("mlflow")
    find_or_make_experiment(mlflow_client(f"sqlite:///{folder / 'mlflow.db'}"), "stems")
    return folder / "mlflow.db"
