import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.workspace.load import location_origins_from_yaml_paths

from assets_def.resources import StemsHome
from pipelines.build import build_definitions
from pipelines.execute import (
    _PROCESS_TAG,
    Outcome,
    _reason_to_leave_out,
    close_dead_runs,
    execute_in_home,
    failures_text,
)
from pipelines.home import install_home, open_instance
from pipelines.jobs import Step, prepare_steps


@pytest.fixture
def resource(home: Path) -> StemsHome:
    resource = StemsHome(home=str(home), workers=1)
    install_home(resource.settings())
    return resource


def test_failing_corpus_hides_no_other(resource: StemsHome, home: Path, caplog):
    shutil.rmtree(home / "corpora" / "demo-plain")
    steps = [
        *prepare_steps(["demo-plain", "demo-swapped"], trained_on=[]),
        Step(
            job="embed_corpus",
            assets=("stem_embeddings",),
            partition="demo-plain",
            needs=("prepare_corpus demo-plain",),
        ),
    ]
    with caplog.at_level("INFO", logger="stems.progress"):
        failed, done, left_out = execute_in_home(resource, steps)
    assert (failed.status, done.status, left_out.status) == ("failed", "done", "left out")
    assert "demo-plain does not exist" in failed.problem
    assert set(done.data_versions) == {"corpus_tracks", "label_embeddings"}
    said = failures_text([failed, done, left_out])
    assert failed.run_id in said
    assert "embed_corpus demo-plain was left out: it needs prepare_corpus demo-plain" in said
    assert "demo-swapped" not in said
    assert "[1/5] corpus_tracks demo-plain …" in caplog.text
    assert "[3/5] corpus_tracks demo-swapped: " in caplog.text


def test_second_time_is_reused_with_the_same_versions(resource: StemsHome):
    steps = prepare_steps(["demo"], trained_on=["demo"])
    first, second = (execute_in_home(resource, steps)[0] for _ in range(2))
    assert set(first.data_versions) == {"corpus_tracks", "label_embeddings", "stem_shards"}
    assert all(second.reused.values())
    assert first.data_versions == second.data_versions
    with open_instance(resource.settings()) as instance:
        found = instance.fetch_materializations(dg.AssetKey("stem_shards"), limit=1).records[0]
        made = found.asset_materialization
        run = instance.get_run_by_id(second.run_id)
        checked = dg.AssetCheckKey(dg.AssetKey("stem_shards"), "no_silent_targets")
        history = instance.event_log_storage.get_asset_check_execution_history
        (check,) = history(checked, limit=1)
    assert run is not None
    # The page of its job lists the runs that carry the name of the code location.
    (origin,) = location_origins_from_yaml_paths(
        [str(Path(__file__).parents[2] / "workspace.yaml")]
    )
    assert run.tags[".dagster/repository"] == f"__repository__@{origin.location_name}"
    assert check.partition == "demo"
    assert made is not None
    assert made.partition == "demo"
    for name in ("uri", "dagster/row_count", "git_revision", "reused", "segments"):
        assert name in made.metadata


def test_dead_runs_are_closed_and_living_ones_are_not(resource: StemsHome):
    gone = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    created = psutil.Process(gone.pid).create_time()
    gone.communicate()
    host = socket.gethostname()
    alive = f"{os.getpid()} {psutil.Process().create_time():.0f} {host}"
    dead = f"{gone.pid} {created:.0f} {host}"
    job = build_definitions(home=resource).resolve_job_def("prepare_corpus")
    with open_instance(resource.settings()) as instance:
        runs = [
            instance.create_run_for_job(
                job, status=dg.DagsterRunStatus.STARTED, tags={_PROCESS_TAG: process}
            )
            for process in (alive, dead)
        ]
        assert close_dead_runs(instance) == 1
        states = [instance.get_run_by_id(run.run_id) for run in runs]
    assert [run and run.status for run in states] == [
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.FAILURE,
    ]


def test_pools_of_ended_runs_are_freed_and_of_living_ones_are_not(resource: StemsHome):
    """As runs of the UI leave them whose process was killed."""
    job = build_definitions(home=resource).resolve_job_def("prepare_corpus")
    with open_instance(resource.settings()) as instance:
        storage = instance.event_log_storage
        for pool, status in (("gpu", "FAILURE"), ("disk", "STARTED")):
            run = instance.create_run_for_job(job, status=dg.DagsterRunStatus(status))
            storage.initialize_concurrency_limit_to_default(pool)
            assert storage.claim_concurrency_slot(pool, run.run_id, "step").is_claimed
        close_dead_runs(instance)
        assert not storage.get_concurrency_info("gpu").active_slot_count
        assert storage.get_concurrency_info("disk").active_slot_count == 1


def test_nothing_to_do(resource: StemsHome):
    assert execute_in_home(resource, []) == []


def test_nothing_more_is_begun_after_a_stop():
    step = Step(job="prepare_corpus", assets=("corpus_tracks",), partition="a")
    stopped = Outcome(step=step, status="failed", is_stopped=True)
    later = Step(job="prepare_corpus", assets=("corpus_tracks",), partition="b")
    assert _reason_to_leave_out(later, {step.name: stopped}) == "you stopped it"
    failed = Outcome(step=step, status="failed")
    assert not _reason_to_leave_out(later, {step.name: failed})
