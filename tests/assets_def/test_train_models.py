"""Training as a process of its own, through real Dagster instances: the same models, and crashes,
refusals and cancels end as they should.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from safetensors.torch import load_file
from torch import equal

from assets_def.resources import StemsHome
from assets_def.results import mlflow_run, readable
from ml.artifacts import DataLayout, read_json
from ml.locks import lock
from ml.training.config import LoopConfig
from ml.training.models import read_models
from ml.training.run_folder import read_record
from ml.training.runs import train_preset
from ml.training.tracking import NoTracker
from pipelines.execute import Outcome, execute_in_home
from pipelines.home import install_home, open_instance
from pipelines.jobs import Step

ENDLESS = 100_000
"""Steps that no test waits for."""
DEADLINE_S = 240
"""Bounds a hang; nothing is expected to take this long."""
KINDS = dg.DagsterEventType


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch):
    """Sums over other numbers of threads have other bits."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def resource(home: Path, **training: Any) -> StemsHome:
    made = StemsHome(home=str(home), overrides={"training": training})
    install_home(made.settings())
    return made


def train(asset: str, home: StemsHome) -> Outcome:
    """Materialize an asset of training as a terminal does, with its blocking check."""
    return execute_in_home(home, [Step(job="train_model", assets=(asset,))])[0]


def events(home: StemsHome, outcome: Outcome) -> list[dg.EventLogEntry]:
    with open_instance(home.settings()) as instance:
        return list(instance.all_logs(outcome.run_id))


def count(home: StemsHome, outcome: Outcome, kind: dg.DagsterEventType) -> int:
    return sum(entry.dagster_event_type is kind for entry in events(home, outcome))


def failure_metadata(home: StemsHome, outcome: Outcome) -> dict[str, Any]:
    (failed,) = (e for e in events(home, outcome) if e.dagster_event_type is KINDS.STEP_FAILURE)
    assert failed.dagster_event is not None
    data = failed.dagster_event.step_failure_data.user_failure_data
    assert data is not None
    return {name: value.value for name, value in data.metadata.items()}


def model(home: Path, preset: str) -> Path:
    return read_models(DataLayout(home=home))[preset]


def assert_equal_weights(one: Path, two: Path):
    first, second = (load_file(path / "model.safetensors") for path in (one, two))
    assert first.keys() == second.keys()
    assert all(equal(first[name], second[name]) for name in first)


def until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (value := found()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
    return value


class Trainers:
    """The processes that take locks of runs: not those of before, and none that only looks."""

    def __init__(self, home: Path) -> None:
        self._home, self._known = home, {os.getpid()}
        self._known |= {pid for pid, _ in self._found()}

    def _found(self) -> Iterator[tuple[int, Path]]:
        for path in self._home.glob("runs/*/.lock"):
            if holder := re.match(r"process (\d+) on ", path.read_text()):
                yield int(holder[1]), path.parent

    def leave_out(self, pid: int):
        self._known.add(pid)

    def next(self) -> tuple[int, Path]:
        """The process id and run folder of one that was not seen before."""
        pid, folder = until(lambda: next((f for f in self._found() if f[0] not in self._known), ()))
        self._known.add(pid)
        return pid, folder


@contextmanager
def killed(home: Path, *, times: int) -> Iterator[None]:
    """Trainers are killed as soon as they hold the lock of their run."""
    trainers = Trainers(home)

    def kill():
        for _ in range(times):
            os.kill(trainers.next()[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    killer.join()


def test_what_is_trained_starts_no_process(home: Path, small: dict[str, Any]):
    made = train_preset(
        "contrastive", layout=DataLayout(home=home), corpora=["demo"], overrides=small
    )
    stems = resource(home, overrides=small)
    again = train("contrastive_encoder", stems)
    assert again.reused == {"contrastive_encoder": True}
    assert again.data_versions == {"contrastive_encoder": made.fingerprint[:16]}
    assert not stems.layout.logs.exists()


def test_wrong_configuration_is_refused_before_a_process_starts(home: Path):
    stems = resource(home, overrides={"optimizer.rate": 1.0})
    failed = train("contrastive_encoder", stems)
    assert "has no field 'rate'" in failed.problem
    assert not stems.layout.logs.exists()


@pytest.mark.service
def test_models_and_metadata_are_those_of_a_direct_call(
    home: Path, tmp_path: Path, small_jepa: dict[str, Any]
):
    of_phase_1 = {name: value for name, value in small_jepa.items() if "predictor" not in name}
    train_preset(
        "contrastive",
        layout=DataLayout(home=home),
        corpora=["demo"],
        overrides=of_phase_1,
        seed=3,
    )
    other = tmp_path / "direct" / "home"
    other.parent.mkdir()
    subprocess.run(["cp", "-r", home, other], check=True)
    wanted = {
        name: train_preset(
            name, layout=DataLayout(home=other), corpora=["demo"], overrides=small_jepa, seed=3
        )
        for name in ("film", "class")
    }
    stems = resource(home, overrides=small_jepa, seed=3, presets=["film", "class"])
    made = train("stem_jepa", stems)
    assert made.status == "done", made.problem
    for name, artifact in wanted.items():
        assert_equal_weights(model(home, name), artifact.path)
        assert read_json(model(home, name) / "manifest.json")["model_id"] == artifact.fingerprint
    with open_instance(stems.settings()) as instance:
        found = instance.fetch_materializations(dg.AssetKey("stem_jepa"), limit=1).records[0]
        shown = found.asset_materialization
    assert shown is not None
    assert shown.metadata["dagster/row_count"].value == 2
    for name, artifact in wanted.items():
        measured = ("speed/", "memory/")
        told = {k: v for k, v in artifact.summary.items() if not k.startswith(measured)}
        expected = readable(told)
        assert {key: shown.metadata[f"{name}/{key}"].value for key in expected} == expected
        run = mlflow_run(model(home, name), stems.settings().tracking_uri)
        assert shown.metadata[f"{name}/mlflow_run"] == run["mlflow_run"]
    said = [entry.user_message for entry in events(stems, made)]
    assert any(re.match(r"training film-tiny-\w+: 6 done in ", line) for line in said)
    assert train("stem_jepa", stems).data_versions == made.data_versions


def interrupted(layout: DataLayout, overrides: dict[str, Any]) -> Path:
    """A run that stopped after step 20 with a checkpoint; returns its folder."""
    folders = []

    class Stopping(NoTracker):
        def ship(self):
            if read_record(folders[0] / "metrics.jsonl")[-1]["step"] >= 20:
                raise KeyboardInterrupt

    def tracker(folder: Path, _name: str) -> NoTracker:
        folders.append(folder)
        return Stopping()

    with pytest.raises(KeyboardInterrupt):
        train_preset(
            "contrastive",
            layout=layout,
            corpora=["demo"],
            overrides=overrides,
            loop=LoopConfig(checkpoint_every=5),
            tracker=tracker,
        )
    assert (folders[0] / "checkpoints" / "step-0000015").is_dir()
    return folders[0]


@pytest.mark.service
@pytest.mark.faults
def test_a_killed_process_is_started_once_more_from_its_checkpoint(
    home: Path, small: dict[str, Any]
):
    overrides = small | {"steps": 40}
    layout = DataLayout(home=home)
    straight = train_preset("contrastive", layout=layout, corpora=["demo"], overrides=overrides)
    kept = straight.path.parent.rename(home / "straight") / "model"
    folder = interrupted(layout, overrides)
    assert folder == straight.path.parent
    stems = resource(home, overrides=overrides)
    with killed(home, times=1):
        made = train("contrastive_encoder", stems)
    assert made.status == "done", made.problem
    assert count(stems, made, KINDS.STEP_UP_FOR_RETRY) == 1
    assert_equal_weights(model(home, "contrastive"), kept)
    assert made.data_versions == {"contrastive_encoder": straight.fingerprint[:16]}
    (log,) = stems.layout.logs.iterdir()
    assert "resumed at step" in log.read_text()


@pytest.mark.service
@pytest.mark.faults
def test_two_crashes_are_enough(home: Path, small: dict[str, Any]):
    stems = resource(home, overrides=small | {"steps": ENDLESS})
    with killed(home, times=2):
        failed = train("contrastive_encoder", stems)
    assert failed.status == "failed"
    assert "was killed by SIGKILL" in failed.problem
    assert count(stems, failed, KINDS.STEP_UP_FOR_RETRY) == 1
    assert str(failure_metadata(stems, failed)["log"]) in failed.problem


@pytest.mark.service
def test_a_refusal_is_not_tried_again(home: Path, small_jepa: dict[str, Any]):
    overrides = small_jepa | {"model.encoder.dim": 64, "model.predictor.dim": 64}
    stems = resource(home, overrides=overrides, presets=["pretrained"])
    failed = train("stem_jepa", stems)
    assert "train it first: stems train --preset contrastive" in failed.problem
    assert count(stems, failed, KINDS.STEP_UP_FOR_RETRY) == 0
    shown = failure_metadata(stems, failed)
    assert "train it first: stems train --preset contrastive" in shown["log_end"]
    assert "train it first: stems train --preset contrastive" in Path(shown["log"]).read_text()


@pytest.mark.service
def test_a_non_finite_loss_is_not_tried_again(home: Path, small: dict[str, Any]):
    overrides = small | {"optimizer.learning_rate": 1e38, "optimizer.warmup_steps": 1}
    stems = resource(home, overrides=overrides | {"steps": ENDLESS})
    failed = train("contrastive_encoder", stems)
    assert "lower optimizer.learning_rate" in failed.problem
    assert count(stems, failed, KINDS.STEP_UP_FOR_RETRY) == 0


def run_worker(stems: StemsHome, trainers: Trainers) -> subprocess.Popen[bytes]:
    """A process that materializes ``contrastive_encoder``."""
    program = (
        "import json, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from assets_def.resources import StemsHome\n"
        "from pipelines.execute import execute_in_home\n"
        "from pipelines.jobs import Step\n"
        "home = StemsHome(**json.loads(sys.argv[1]))\n"
        "execute_in_home(home, [Step(job='train_model', assets=('contrastive_encoder',))])\n"
    )
    told = json.dumps({"home": stems.home, "overrides": stems.overrides})
    worker = subprocess.Popen([sys.executable, "-c", program, told], start_new_session=True)
    trainers.leave_out(worker.pid)
    return worker


def training(trainers: Trainers) -> tuple[psutil.Process, Path]:
    """The next trainer, when it is past step 10 of what it trains."""
    pid, folder = trainers.next()
    before = len(read_record(folder / "metrics.jsonl"))
    until(lambda: len(read_record(folder / "metrics.jsonl")) > before)
    return psutil.Process(pid), folder


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("checkpoints/*/manifest.json"))


@pytest.mark.service
@pytest.mark.faults
def test_a_cancelled_run_of_two_processes_leaves_a_checkpoint_and_goes_on_from_it(
    home: Path, small: dict[str, Any]
):
    """Where they took over 20 s to stop they would have been killed, and left no checkpoint.

    One process is cancelled, and goes on, in ``tests/pipelines/live``.
    """
    stems = resource(home, overrides=small | {"steps": 400}, processes=2)
    trainers = Trainers(home)
    worker = run_worker(stems, trainers)
    trainer, folder = training(trainers)
    assert "torch.distributed.run" in trainer.parents()[0].cmdline()
    with open_instance(stems.settings()) as instance:  # as Dagster's UI does it
        instance.report_run_canceling(instance.get_runs(limit=1)[0])
    worker.send_signal(signal.SIGINT)
    worker.wait(DEADLINE_S)
    assert not trainer.is_running()
    left = checkpoints(folder)[-1]
    with lock(folder / ".lock"):
        pass  # nobody trains any more
    with open_instance(stems.settings()) as instance:
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.CANCELED]
    made = train("contrastive_encoder", stems)
    assert made.status == "done", made.problem
    assert model(home, "contrastive") == folder / "model"
    logs = "".join(path.read_text() for path in stems.layout.logs.iterdir())
    assert f"resumed at step {int(left.removeprefix('step-'))}" in logs


@pytest.mark.service
@pytest.mark.faults
def test_a_trainer_whose_run_worker_was_killed_saves_and_ends(home: Path, small: dict[str, Any]):
    stems = resource(home, overrides=small | {"steps": ENDLESS})
    trainers = Trainers(home)
    worker = run_worker(stems, trainers)
    trainer, folder = training(trainers)
    worker.kill()
    worker.wait()
    psutil.wait_procs([trainer], timeout=DEADLINE_S)
    assert not trainer.is_running()
    assert checkpoints(folder)
