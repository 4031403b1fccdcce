"""Dagster as its users start it, on a home with twelve songs: every asset, cancel, tick, look."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from ml.artifacts import DataLayout
from ml.corpora.corpus import files_fingerprint
from ml.settings import load_settings
from ml.training.models import read_models
from ml.training.run_folder import RECORD_NAME, read_record
from pipelines.home import install_home, open_instance

pytestmark = pytest.mark.service

CORPORA = ("demo", "demo-plain")
CONFIG = """
corpora:
  demo: {kind: demo, root: corpora/demo}
  demo-plain: {kind: demo, root: corpora/demo-plain}
shards: {payload: pcm16}
training:
  presets: [film-nce]
  overrides:
    {steps: 4, batch_size: 4, model.encoder.layers: 1, model.chunk_s: 2.0, pairs.chunk_s: 2.0}
evaluation: {bootstrap_resamples: 100}
promotion: {gallery: [demo]}
automation: {settled_after_s: 0}
"""
PREPARED = ("corpus_tracks", "label_embeddings", "stem_shards")
TRAINED = ("contrastive_encoder", "stem_jepa")
SCORED = ("stem_embeddings", "retrieval_scores", "instrument_scores")
CONCLUDED = ("beat_probe", "beat_scores", "champion", "report")
STEPS = (200, 4_000, 40_000)
"""Of a training to cancel; the longer ones where it was over before it could be cancelled."""


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """A training that was cancelled."""

    run_id: str
    folder: Path
    pid: int
    """Of the trainer."""
    steps: int
    """What it was to do."""
    logged: int
    """Its last step in the record."""
    saved: int
    """Its last checkpoint."""


@pytest.fixture(scope="module")
def home(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Songs and settings; nothing is made of them yet."""
    home = tmp_path_factory.mktemp("dagster-dev") / "home"
    shutil.copytree(shared_home / "corpora", home / "corpora")
    (home / "config.yaml").write_text(CONFIG)
    install_home(load_settings(home))
    return home


@pytest.fixture(scope="module")
def server(home: Path, start_server: Callable[..., Any]) -> Any:
    command = ("dg", "dev", "--host", "127.0.0.1", "--port", "{port}")
    told = {"STEMS_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}
    return start_server(*command, ready="/server_info", cwd=Path(__file__).parents[3], **told)


@pytest.fixture(autouse=True)
def _log(server: Any) -> Iterator[None]:
    """Pytest shows it where a test has failed."""
    before = len(server.log.read_text())
    yield
    sys.stdout.write(server.log.read_text()[before:])


@pytest.fixture(scope="module")
def dagster(server: Any, open_dagster: Callable[[str], Any]) -> Any:
    """The code location is loaded, the daemon runs and has registered the corpora."""
    dagster = open_dagster(server.url)
    query = '{assetNodes(assetKeys: [{path: ["corpus_tracks"]}]) {partitionKeys}}'
    dagster.until(lambda: len(dagster.ask(query)[0]["partitionKeys"]) == len(CORPORA), "corpora")
    return dagster


@pytest.fixture(scope="module")
def backfill(dagster: Any) -> str:
    """Tables, labels and shards of all corpora."""
    backfill = dagster.backfill(PREPARED, CORPORA)
    runs = dagster.until(
        lambda: len(runs := dagster.backfilled(backfill)["runs"]) == len(CORPORA) and runs, "runs"
    )
    dagster.succeeded(*(run["runId"] for run in runs))
    return backfill


@pytest.fixture(scope="module")
def cancelled(dagster: Any, home: Path, backfill: str) -> Cancelled:  # noqa: ARG001
    locks, runs = "contrastive-*/.lock", DataLayout(home=home).runs
    for steps in STEPS:
        known = set(runs.glob(locks))
        of_phases = {
            "contrastive_encoder": {"steps": steps},
            "stem_jepa": {"phase_1": "contrastive"},
        }
        config = {"ops": {name: {"config": chosen} for name, chosen in of_phases.items()}}
        run_id = dagster.launch("train_model", TRAINED, config=config)
        (lock,) = dagster.until(lambda k=known: set(runs.glob(locks)) - k, "a trainer")
        record = lock.with_name(RECORD_NAME)
        dagster.until(lambda r=record: read_record(r), "its first steps")
        holder = re.match(r"process (\d+) on ", lock.read_text())
        assert holder is not None
        dagster.terminate(run_id)
        if dagster.ended(run_id) == "CANCELED":
            saved = max(lock.parent.glob("checkpoints/step-*/manifest.json")).parent.name
            return Cancelled(
                run_id=run_id,
                folder=lock.parent,
                pid=int(holder[1]),
                steps=steps,
                logged=read_record(record)[-1]["step"],
                saved=int(saved.removeprefix("step-")),
            )
    raise AssertionError("it was always over before it could be cancelled")


@pytest.fixture(scope="module")
def trained(dagster: Any, cancelled: Cancelled) -> str:
    """The run in which it was executed again."""
    run_id = dagster.reexecute(cancelled.run_id)
    dagster.succeeded(run_id)
    return run_id


@pytest.fixture(scope="module")
def scored(dagster: Any, trained: str) -> Sequence[str]:  # noqa: ARG001
    """The runs that embed and score a corpus, and make its features for beats."""
    jobs = {"evaluate_retrieval": SCORED, "prepare_beats": ["beat_features"]}
    runs = [dagster.launch(job, assets, "demo") for job, assets in jobs.items()]
    dagster.succeeded(*runs)
    return runs


def test_it_loads_without_a_word(dagster: Any, server: Any):
    query = (
        "{workspaceOrError {... on Workspace {locationEntries {name "
        "locationOrLoadError {__typename ... on PythonError {message}}}}}}"
    )
    (location,) = dagster.ask(query)["locationEntries"]
    assert location["locationOrLoadError"]["__typename"] == "RepositoryLocation", location
    said = server.log.read_text().splitlines()
    assert [line for line in said if re.search(r"warn|error|traceback", line, re.I)] == []


def test_a_cancelled_training_leaves_its_last_step(cancelled: Cancelled):
    """A process that took over 20 s to stop would have been killed, and left less."""
    assert not psutil.pid_exists(cancelled.pid)
    assert 0 < cancelled.logged <= cancelled.saved < cancelled.steps


def test_executed_again_it_goes_on_to_the_end(cancelled: Cancelled, home: Path, trained: str):
    layout = DataLayout(home=home)
    log = (layout.logs / f"contrastive_encoder-{trained[:8]}.log").read_text()
    assert f"resumed at step {cancelled.saved}" in log
    assert read_models(layout)["contrastive"] == cancelled.folder / "model"


def test_every_asset_and_every_check_is_made(dagster: Any, scored: Sequence[str]):  # noqa: ARG001
    dagster.succeeded(dagster.launch("__ASSET_JOB", CONCLUDED))
    assert dagster.lacking() == []


def test_the_schedule_asks_for_every_corpus(dagster: Any, scored: Sequence[str]):  # noqa: ARG001
    dagster.turn_on("Schedule", "nightly_evaluation")
    at = datetime(2030, 1, 2, 3, tzinfo=UTC).timestamp()
    asked = dagster.tick("Schedule", "nightly_evaluation", timestamp=at)["runRequests"]
    dagster.turn_off("Schedule", "nightly_evaluation")
    keys = {request["runKey"] for request in asked}
    assert keys == {f"evaluation-2030-01-02/evaluate/{name}" for name in CORPORA}


def test_a_corpus_that_changed_is_scanned_again(
    dagster: Any,
    home: Path,
    backfill: str,  # noqa: ARG001
):
    """The sensor asks for a look; what a look sees is followed where retraining is turned on."""
    before = looked_at_before(home)
    dagster.turn_on("Sensor", "retraining")
    dagster.until(lambda: dagster.state("Sensor", "retraining")["ticks"], "its first evaluation")
    os.utime(next((home / "corpora" / "demo-plain").rglob("*.wav")))
    dagster.succeeded(dagster.first_run_of_sensor("changed_corpora", ""))
    after = dagster.versions("corpus_files")
    assert {name for name in after if after[name] != before[name]} == {"demo-plain"}

    def followed() -> Any:
        ticks = dagster.state("Sensor", "retraining")["ticks"]
        return next((tick["runIds"] for tick in ticks if tick["runIds"]), None)

    (run_id,) = dagster.until(followed, "a scan of what has changed")
    dagster.turn_off("Sensor", "retraining")
    dagster.succeeded(run_id)
    assert dagster.partition(run_id) == "demo-plain"


def looked_at_before(home: Path) -> dict[str, str]:
    """What a look at all corpora reports, as if it had been; corpus → version."""
    settings = load_settings(home)
    versions = {
        name: files_fingerprint("demo", settings.corpus(name).root) for name in settings.corpora
    }
    with open_instance(settings) as instance:
        for name, version in versions.items():
            tags = {"dagster/data_version": version}
            seen = dg.AssetObservation("corpus_files", partition=name, tags=tags)
            instance.report_runless_asset_event(seen)
    return versions


@pytest.mark.browser
def test_the_page_of_the_scores_shows_their_plot(
    dagster: Any,
    page: Any,
    scored: Sequence[str],  # noqa: ARG001
    tmp_path: Path,
):
    page.goto(f"{dagster.url}/assets/retrieval_scores?partition=demo")
    row = page.locator("tr", has=page.get_by_text("plot", exact=True))
    row.get_by_text("[Show Markdown]").click()
    image = page.get_by_role("img", name="recall@10")
    image.wait_for()
    page.wait_for_function("image => image.naturalWidth > 0", arg=image.element_handle())
    assert page.screenshot(path=tmp_path / "scores.png")


@pytest.mark.browser
def test_the_graph_is_drawn_by_groups(dagster: Any, page: Any):
    page.goto(f"{dagster.url}/asset-groups")
    for name in ("corpus", "shards", "training", "embeddings", "evaluation", "beats"):
        page.locator("foreignObject").get_by_text(name, exact=True).first.wait_for()
    page.keyboard.press("Alt+e")  # expand all groups
    for name in (*PREPARED, *SCORED, *CONCLUDED, "stem_jepa"):
        page.locator("foreignObject").get_by_text(name, exact=True).first.wait_for()


def test_a_backfill_makes_a_version_for_each_corpus(dagster: Any, backfill: str):
    done = dagster.until(
        lambda: (b := dagster.backfilled(backfill))["status"] != "REQUESTED" and b, "its end"
    )
    assert done["status"] == "COMPLETED_SUCCESS"
    for name in PREPARED:
        versions = dagster.versions(name)
        assert set(versions) == set(CORPORA)
        assert len(set(versions.values())) == len(CORPORA)
