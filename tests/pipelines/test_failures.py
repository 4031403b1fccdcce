import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets_def.resources import StemsHome
from pipelines.execute import execute_in_home
from pipelines.home import install_home, open_instance
from pipelines.jobs import prepare_steps
from pipelines.progress import failed_runs, failures, how_to_go_on, planned_assets


@pytest.fixture
def stems(home: Path) -> StemsHome:
    made = StemsHome(home=str(home), workers=1)
    install_home(made.settings())
    return made


def message_of_sensor(instance: dg.DagsterInstance, run: dg.DagsterRun, home: StemsHome) -> None:
    """What the daemon does with a failed run."""
    (failed,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert failed.dagster_event is not None
    context = dg.build_run_status_sensor_context(
        sensor_name=failed_runs.name,
        dagster_event=failed.dagster_event,
        dagster_instance=instance,
        dagster_run=run,
        resources={"home": home},
    ).for_run_failure()
    failed_runs(context)


def failed_run(stems: StemsHome, instance: dg.DagsterInstance) -> dg.DagsterRun:
    (failed,) = execute_in_home(stems, prepare_steps(["demo-plain"], trained_on=[]))
    run = instance.get_run_by_id(failed.run_id)
    assert run is not None
    return run


def test_a_failed_run_is_said_with_what_where_and_how_to_go_on(
    stems: StemsHome, home: Path, capfd: pytest.CaptureFixture[str]
):
    shutil.rmtree(home / "corpora" / "demo-plain")
    with open_instance(stems.settings()) as instance:
        run = failed_run(stems, instance)
        message_of_sensor(instance, run, stems)
    said = capfd.readouterr().err
    assert f"run {run.run_id} (prepare_corpus) failed" in said
    assert "corpus_tracks demo-plain: " in said
    assert f"{home / 'corpora' / 'demo-plain'} does not exist" in said
    assert "Re-execute, From failure" in said
    assert "--select corpus_tracks,label_embeddings --partition demo-plain" in said


def test_a_run_whose_process_was_killed_is_said_by_its_message():
    run = dg.DagsterRun(job_name="train_model", run_id="1234")
    said = failures(run, [], "its process was killed")
    assert said == ["run 1234 (train_model) failed: its process was killed"]


@pytest.mark.service
def test_the_command_to_go_on_does(stems: StemsHome, home: Path):
    folder = home / "corpora" / "demo-plain"
    folder.rename(home / "elsewhere")
    with open_instance(stems.settings()) as instance:
        run = failed_run(stems, instance)
        assets = planned_assets(instance, run.run_id)
        said = how_to_go_on(run, assets, stems)
    (home / "elsewhere").rename(folder)
    words = shlex.split(said.partition("; or: ")[2])
    variables = dict(word.split("=", 1) for word in words[:2])
    program = Path(sys.executable).with_name(words[2])
    subprocess.run([program, *words[3:]], env={**os.environ, **variables}, check=True)
    with open_instance(stems.settings()) as instance:
        assert instance.get_runs(limit=1)[0].status is dg.DagsterRunStatus.SUCCESS
