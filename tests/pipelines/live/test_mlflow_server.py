"""MLflow as ``make mlflow`` starts it, on runs that were tracked: what a browser shows of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from ml.cli.main import main as stems
from ml.mlflow_store import TRAINING_VIEW

pytestmark = [pytest.mark.service, pytest.mark.browser]

SMALL = [
    *("steps=30", "batch_size=4", "model.encoder.dim=32", "model.encoder.layers=1"),
    *("model.encoder.heads=2", "model.chunk_s=2.0", "pairs.chunk_s=2.0"),
]
LOSS = "contrastive/loss"


@pytest.fixture(scope="module")
def mlflow(
    shared_home: Path, tmp_path_factory: pytest.TempPathFactory, start_server: Callable[..., Any]
) -> str:
    """The URL of a server with two trainings that differ by their seed."""
    home = shutil.copytree(shared_home, tmp_path_factory.mktemp("mlflow") / "home")
    for seed in ("1", "2"):
        trained = ["train", "--preset", "contrastive", "--seed", seed, "--corpora", "demo"]
        assert stems(["--home", str(home), *trained, "--set", *SMALL]) == 0
    command = ("python", "-m", "pipelines.mlflow_ui", "--home", str(home), "--port", "{port}")
    return start_server(*command, ready="/health", cwd=Path.cwd()).url


@pytest.fixture(scope="module")
def runs(mlflow: str) -> dict[str, str]:
    """Id → name of the runs of the server."""
    asked = {"experiment_ids": ["1"]}
    answer = httpx.post(f"{mlflow}/api/2.0/mlflow/runs/search", json=asked, timeout=60).json()
    found = {run["info"]["run_id"]: run["info"]["run_name"] for run in answer["runs"]}
    assert len(found) == 2
    return found


def test_the_page_that_metadata_points_to_shows_the_run(
    mlflow: str, page: Any, runs: dict[str, str]
):
    """``ml.training.run_folder.mlflow_page`` makes such links."""
    for run_id, name in runs.items():
        page.goto(f"{mlflow}/#/experiments/1/runs/{run_id}?{TRAINING_VIEW}")
        page.get_by_role("heading", name=name).wait_for()
        page.get_by_text("stems train").first.wait_for(timeout=20_000)
        assert not page.get_by_text("Judges", exact=True).count()  # of the other view
        page.get_by_text("training_id", exact=False).first.wait_for()


def test_the_charts_compare_both_runs(mlflow: str, page: Any, runs: dict[str, str]):
    page.goto(f"{mlflow}/#/experiments/1/runs?{TRAINING_VIEW}&compareRunsMode=CHART")
    for name in runs.values():
        page.get_by_role("link", name=name).wait_for()
    page.get_by_placeholder("Search metric charts").fill(f"^{LOSS}$")
    for name in runs.values():
        page.get_by_text(f"{name} ({LOSS})", exact=True).first.wait_for()
    curves = page.locator(".js-plotly-plot .scatterlayer .trace")
    curves.nth(len(runs) - 1).wait_for(state="attached")


def test_the_page_of_differences_names_both_runs(mlflow: str, page: Any, runs: dict[str, str]):
    chosen, experiments = quote(json.dumps(list(runs))), quote(json.dumps(["1"]))
    page.goto(f"{mlflow}/#/compare-runs?runs={chosen}&experiments={experiments}")
    page.get_by_role("heading", name="Comparing 2 Runs from 1 Experiment").wait_for()
    for name in runs.values():
        page.get_by_text(name, exact=True).first.wait_for()
