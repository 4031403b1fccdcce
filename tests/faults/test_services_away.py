"""Services go away for a while and come back: nothing is lost, nothing is there twice.

MLflow's server, a bucket, Dagster's database, the right time, and a temporary folder on the disk of
the home. ``STEMS_AWAY_S`` says for how many seconds MLflow's server is away; ten minutes by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from assets_def.resources import StemsHome
from ml.artifacts import DataLayout, read_json
from ml.cli.main import main
from ml.locks import LockedError
from ml.mlflow_store import mlflow_client
from ml.retrieval.champion.champion import write_champion
from ml.training.models import find_model
from ml.training.run_folder import read_record
from pipelines.execute import execute_in_home
from pipelines.home import install_home, open_instance
from pipelines.jobs import prepare_steps

pytestmark = [pytest.mark.faults, pytest.mark.soak, pytest.mark.service]
ROOT = Path(__file__).parents[2]
AWAY_S = float(os.environ.get("STEMS_AWAY_S", "600"))
LOSS = "contrastive/loss"
SOME_EXPERIMENTS = "/api/2.0/mlflow/experiments/search?max_results=1"
BUCKET = "s3://stems/training"
WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def training(small: dict[str, object], steps: int = 4) -> list[str]:
    """A command that trains for some steps."""
    fields = [f"{name}={value}" for name, value in {**small, "steps": steps}.items()]
    return ["train", "--preset", "contrastive", "--corpora", "demo", "--set", *fields]


def weights(home: Path) -> str:
    """The digest of the model that phase 1 made last."""
    folder = home.joinpath(read_json(home / "runs" / "models.json")["contrastive"])
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def only_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """What a command said of its failure."""
    said = capsys.readouterr().err
    assert "Traceback" not in said, said
    return said.splitlines()[-1]


class MlflowServer:
    """One that can be killed and started again."""

    def __init__(self, folder: Path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._folder = folder
        self.store = f"sqlite:///{folder / 'server.db'}"

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("mlflow")), "server", "--port"]
        command += [str(self._port), "--workers", "1", "--backend-store-uri", self.store]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(1500):
            try:  # its first look at the store takes seconds where the machine is busy
                httpx.get(f"{self.url}{SOME_EXPERIMENTS}", timeout=300)
                return
            except httpx.TransportError:
                time.sleep(0.2)
        raise AssertionError((self._folder / "server.log").read_text())

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it is away
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path)
    server.start()
    yield server
    server.kill()


def test_a_tracking_server_that_was_away_has_each_step_once(
    home: Path, small: dict[str, object], server: MlflowServer
):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "STEMS_TRACKING__URI": server.url,
        "OMP_NUM_THREADS": "1",
    }
    stems = [sys.executable, "-m", "ml.cli.main", "--home", str(home)]
    with subprocess.Popen([*stems, *training(small, 150)], env=environment) as process:
        while not (shipped := list(home.glob("runs/contrastive-*/mlflow.json"))) or (
            read_json(shipped[0])["lines"] < 2
        ):
            assert process.poll() is None, "it ended before the server was killed"
            time.sleep(0.05)
        server.kill()
        back_s = time.monotonic() + AWAY_S
        assert process.wait() == 0
    time.sleep(max(0.0, back_s - time.monotonic()))
    run = shipped[0].parent
    lines = [x for x in read_record(run / "metrics.jsonl") if LOSS in x["metrics"]]
    recorded = {x["step"]: x["metrics"][LOSS] for x in lines}
    run_id = read_json(shipped[0])["run_id"]
    before = mlflow_client(server.store).get_metric_history(run_id, LOSS)
    assert 0 < len(before) < len(recorded), "the server was away for nothing"
    server.start()
    for _ in range(2):
        synced = [*stems, "train", "sync", run.name]
        assert subprocess.run(synced, env=environment, check=False).returncode == 0
    history = mlflow_client(server.store).get_metric_history(run_id, LOSS)
    assert sorted(m.step for m in history) == sorted(recorded)  # none twice
    assert {m.step: m.value for m in history} == recorded


class Weather:
    """A store of S3 that has bad hours: it refuses, or takes its time, from some request on."""

    def __init__(self, store: WSGI):
        self._store = store
        self.be_well()

    def be_well(self) -> None:
        self._asked, self._fails, self._wait_s = 0, range(0), 0.0

    def fail(self, first: int, last: int = sys.maxsize) -> None:
        """Answer 500 to the requests of these numbers, counted from now."""
        self._asked, self._fails = 0, range(first, last)

    def be_slow(self, wait_s: float) -> None:
        self._wait_s = wait_s

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        time.sleep(self._wait_s)
        number, self._asked = self._asked, self._asked + 1
        if number not in self._fails:
            return self._store(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("500 Internal Server Error", [("Content-Type", "application/xml")])
        return [b"<Error><Code>InternalError</Code><Message>come again</Message></Error>"]


@pytest.fixture
def weather(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Weather]:  # noqa: ARG001
    """The same buckets as those of ``s3``, at an address of their own."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    weather = Weather(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, weather, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield weather
    server.shutdown()
    thread.join()


def pushed(s3: Any) -> dict[str, bytes]:
    listed = s3.list_objects_v2(Bucket="stems").get("Contents", [])
    return {
        entry["Key"].rpartition("/")[2]: s3.get_object(Bucket="stems", Key=entry["Key"])[
            "Body"
        ].read()
        for entry in listed
    }


@pytest.fixture
def shards(home: Path) -> dict[str, bytes]:
    """What a push has to bring there."""
    return {path.name: path.read_bytes() for path in (home / "shards" / "demo").glob("[!.]*.*")}


def test_a_push_puts_up_with_a_store_that_fails_for_a_while(
    home: Path, weather: Weather, shards: dict[str, bytes], s3: Any
):
    weather.fail(2, 9)
    assert main(["--home", str(home), "shards", "push", "demo", BUCKET]) == 0
    assert pushed(s3) == shards


def test_a_push_puts_up_with_a_slow_store(
    home: Path, weather: Weather, shards: dict[str, bytes], s3: Any
):
    weather.be_slow(2.0)
    assert main(["--home", str(home), "shards", "push", "demo", BUCKET]) == 0
    assert pushed(s3) == shards


@pytest.mark.parametrize("first", [0, 2, 5])
def test_a_push_that_failed_goes_on(
    home: Path,
    weather: Weather,
    shards: dict[str, bytes],
    s3: Any,
    capsys: pytest.CaptureFixture[str],
    first: int,
):
    push = ["--home", str(home), "shards", "push", "demo", BUCKET]
    weather.fail(first)
    assert main(push) == 1
    assert "cannot be reached, tried 4 times" in only_sentence(capsys)
    weather.be_well()
    there = pushed(s3)
    assert "manifest.json" not in there
    assert there.items() <= shards.items()
    assert main(push) == 0
    assert pushed(s3) == shards


def test_a_training_whose_bucket_fails_is_the_same_afterwards(
    home: Path,
    weather: Weather,
    small: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    train = ["--home", str(home), *training(small)]
    assert main(train) == 0
    undisturbed = weights(home)
    assert main(["--home", str(home), "shards", "push", "demo", BUCKET]) == 0
    monkeypatch.setenv("STEMS_SHARDS__URI", BUCKET)
    (home / "runs").rename(home / "before")
    weather.fail(3)  # manifest and indexes were read
    assert main(train) == 1
    assert "cannot be reached, tried 4 times" in only_sentence(capsys)
    weather.be_well()
    assert main(train) == 0
    assert weights(home) == undisturbed


def held(path: Path) -> sqlite3.Connection:
    """Hold a database of sqlite for itself until this is closed, as a process that writes does."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


@pytest.mark.parametrize(("name", "seconds"), [("runs.db", 3), ("runs/index.db", 20)])
def test_a_database_of_dagster_that_is_locked_is_waited_for(home: Path, name: str, seconds: float):
    steps = prepare_steps(["demo"], trained_on=["demo"])
    resource = StemsHome(home=str(home), workers=1)
    install_home(resource.settings())
    (wanted,) = execute_in_home(resource, steps)
    timer = threading.Timer(seconds, held(home / "dagster" / "history" / name).close)
    timer.start()
    (outcome,) = execute_in_home(resource, steps)
    timer.join()
    assert outcome.status == "done"
    assert outcome.data_versions == wanted.data_versions


def test_a_database_of_dagster_that_stays_locked_is_said(home: Path):
    """In one sentence; afterwards the same steps are done."""
    steps = prepare_steps(["demo-plain"], trained_on=[])
    resource = StemsHome(home=str(home), workers=1)
    install_home(resource.settings())
    with open_instance(resource.settings()):
        connection = held(home / "dagster" / "history" / "runs.db")
    with pytest.raises(LockedError, match=rf"{home / 'dagster'} cannot .* \(database is locked\)"):
        execute_in_home(resource, steps)
    connection.close()
    (outcome,) = execute_in_home(resource, steps)
    assert outcome.status == "done"


def test_a_clock_that_is_set_back_during_a_training_changes_nothing(
    home: Path, small: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    train = ["--home", str(home), *training(small, 40)]
    assert main(train) == 0
    undisturbed = weights(home)
    for name in ("runs", "mlflow"):
        (home / name).rename(home / f"{name} before")
    begun_s, now = time.time(), time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600 * (now() > begun_s + 1))
    assert main(train) == 0
    assert weights(home) == undisturbed
    (run,) = (home / "runs").glob("contrastive-*")
    lines = read_record(run / "metrics.jsonl")
    assert min(x["time"] for x in lines) < begun_s - 1800, "the clock was never set back"
    uri = f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"
    history = mlflow_client(uri).get_metric_history(read_json(run / "mlflow.json")["run_id"], LOSS)
    shipped = sorted(m.step for m in history)
    assert shipped == sorted(x["step"] for x in lines if LOSS in x["metrics"])


def test_what_lies_in_the_future_is_neither_made_again_nor_passed_over(
    home: Path, small: dict[str, object]
):
    """As after a clock was set back an hour: whatever was made, and its audio, is from later."""
    commands = [["corpus", "build", "demo"], ["shards", "build", "demo"], training(small)]

    def made() -> dict[str, str]:
        for words in commands:
            assert main(["--home", str(home), *words]) == 0
        tables = [home / "tracks" / "demo", home / "shards" / "demo"]
        identities = {x.name: read_json(x / "manifest.json")["fingerprint"] for x in tables}
        return {**identities, "model": weights(home)}

    def in_an_hour(folder: Path) -> dict[Path, int]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        later_s = time.time() + 3600
        for path in files:
            os.utime(path, (later_s, later_s))
        return {path: path.stat().st_mtime_ns for path in files}

    in_an_hour(home / "corpora")
    first = made()
    times = {
        x: t for name in ("tracks", "shards", "runs") for x, t in in_an_hour(home / name).items()
    }
    assert made() == first
    redone = {path.name for path, then in times.items() if path.stat().st_mtime_ns != then}
    assert redone <= {".lock", "models.json"}  # models.json: which run a name stands for
    song = next((home / "corpora" / "demo" / "songs").rglob("*.wav"))
    whole = song.read_bytes()
    audio, rate_hz = soundfile.read(song)
    soundfile.write(song, np.roll(audio, 1000), rate_hz)  # of today: older than its tables
    changed = made()
    assert all(changed[name] != value for name, value in first.items())
    song.write_bytes(whole)
    assert made() == first


def test_an_index_with_its_temporary_folder_on_another_disk(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    layout = DataLayout(home=home)
    model = find_model(layout, "film")
    assert model.checkpoint is not None
    write_champion(layout, model.model_id, model.checkpoint)
    for name in ("first", "second"):
        for seed, stem in enumerate(("bass guitar", "piano")):
            path = home / "songs" / name / f"{stem}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = 0.1 * np.random.default_rng(seed).standard_normal(48_000)
            soundfile.write(path, noise, 16_000)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        if Path(elsewhere).stat().st_dev == home.stat().st_dev:
            pytest.skip("/dev/shm is on the disk of the home")
        monkeypatch.setenv("TMPDIR", elsewhere)
        monkeypatch.setattr(tempfile, "tempdir", None)
        assert main(["--home", str(home), "index", str(home / "songs")]) == 0
        mix = next((home / "examples").glob("*.wav"))
        assert main(["--home", str(home), "query", str(mix), "--instrument", "piano"]) == 0
