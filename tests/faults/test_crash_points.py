"""Wherever a command is killed, the same command once more ends as if nothing had happened.

Every change on disk that lasts goes by ``ml.artifacts.crash_point``, before and after; a process
ends there, by SIGKILL, at the number that ``STEMS_CRASH_AT`` says. A few of these points of each
command are tried here, all of them under the marker ``soak``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ml.artifacts import CRASH_AT, DataLayout, read_json
from ml.corpora.corpus import open_corpus
from ml.corpora.table import build_corpus_tracks
from ml.locks import require_free
from ml.upkeep.collect import collect_leftovers

pytestmark = [pytest.mark.faults, pytest.mark.slow]

MOST_POINTS = 500
SERVER = """
import os, sys, traceback
import torch
import ml.audio.files, ml.cli.main, ml.training.runs, ml.shards.build, ml.retrieval.embeddings.build
import ml.training.config

torch.set_num_threads(1)
ml.training.config.LoopConfig.__init__.__kwdefaults__.update(checkpoint_every=1, log_every=1)
for line in sys.stdin:
    point, *command = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if not child:
        os.environ["STEMS_CRASH_AT"] = point
        sys.stdout = sys.stderr
        try:
            code = ml.cli.main.main(command)
        except BaseException:
            traceback.print_exc()
            code = 99
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Forks a process a command: packages are imported once. It saves a checkpoint at every step."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command, and what it leaves behind."""

    words: Sequence[str]
    folders: Sequence[str]
    """What is removed before it is killed anew."""
    state: Callable[[Path], Mapping[str, object]]
    """What must be the same afterwards."""
    points: Sequence[int] = ()
    """Crash points that are tried in a few seconds."""


def digests(*patterns: str) -> Callable[[Path], Mapping[str, object]]:
    """The bytes of the files that match."""

    def state(home: Path) -> Mapping[str, object]:
        paths = sorted(path for pattern in patterns for path in home.glob(pattern))
        assert paths
        return {
            path.relative_to(home).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in paths
        }

    return state


def training(home: Path) -> Mapping[str, object]:
    """Weights, which steps were logged (each once), and the model that the name stands for."""
    (run,) = home.glob("runs/contrastive-*")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = digests("runs/*/model/model.safetensors", "runs/*/model/config.json")(home)
    return {
        **weights,
        "losses": [x["metrics"].get("contrastive/loss") for x in lines],
        "steps": [x["step"] for x in lines],
        "names": read_json(home / "runs" / "models.json"),
        # Half-written files go with `stems gc --delete`, which is asked for afterwards.
        "folders": sorted(path.name for path in run.iterdir() if path.suffix != ".tmp"),
    }


def published(home: Path) -> Mapping[str, object]:
    """Embeddings, and the rows of the tables."""
    import lancedb

    (database,) = (path for path in home.glob("lancedb/*") if path.is_dir())
    opened = lancedb.connect(str(database))
    names = ("stem_embeddings", "chunk_embeddings")
    keys = {name: opened.open_table(name).to_arrow()["stem_id"].to_pylist() for name in names}
    return {
        **digests("embeddings/*/*/*.parquet")(home),
        **{name: sorted(found) for name, found in keys.items()},
    }


def champion(home: Path) -> Mapping[str, object]:
    found = read_json(home / "lancedb" / "champion.json")
    return {name: found[name] for name in ("model_id", "previous", "mlflow_version")}


def stages(small: Mapping[str, object]) -> dict[str, Stage]:
    fields = [f"{name}={value}" for name, value in {**small, "steps": 3}.items()]
    return {
        "shards": Stage(
            words=["shards", "build", "demo", "--workers", "1"],
            folders=["shards"],
            state=digests("shards/demo/*.tar", "shards/demo/*.json"),
            points=(1, 4),
        ),
        "training": Stage(
            words=["train", "--preset", "contrastive", "--corpora", "demo", "--set", *fields],
            folders=["runs", "mlflow"],
            state=training,
            points=(9,),
        ),
        "embedding": Stage(
            words=["embed", "demo", "--models", "film", "--precision", "fp32"],
            folders=["embeddings", "lancedb"],
            state=published,
        ),
        "promotion": Stage(
            words=["promote", "film", "--force"],
            folders=["lancedb/champion.json", "mlflow"],
            state=champion,
        ),
    }


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[..., int]]:
    """Runs a command in a process of its own; its exit code, or minus the signal that ended it."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-c", SERVER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as server:

        def ask(home: Path, words: Sequence[str], point: int = 0) -> int:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write("\t".join([str(point), "--home", str(home), *words]) + "\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        yield ask
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture
def prepared(home: Path) -> Path:
    """A home whose tables name its own files."""
    layout = DataLayout(home=home)
    build_corpus_tracks("demo", open_corpus("demo", home / "corpora" / "demo"), layout)
    settings = "corpora: {demo: {kind: demo, root: corpora/demo}}\n"
    (home / "config.yaml").write_text(settings + "promotion: {requires_mix: false}\n")
    return home


def sweep(run: Callable[..., int], home: Path, stage: Stage, points: Sequence[int]) -> int:
    """Kill a command at these points, each time from its beginning; returns how often it was."""

    def begin() -> None:
        for name in stage.folders:
            path = home / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    begin()
    assert run(home, stage.words) == 0
    undisturbed = stage.state(home)
    for done, point in enumerate(points):
        begin()
        code = run(home, stage.words, point)
        if code == 0:  # it has no such point
            return done
        assert code == -signal.SIGKILL, f"ended with {code} at point {point}"
        assert run(home, stage.words) == 0, f"does not go on after point {point}"
        assert stage.state(home) == undisturbed, f"another end after point {point}"
        require_nothing_left(home)
    return len(points)


def require_nothing_left(home: Path) -> None:
    """No lock is held, and what is half-written goes with ``stems gc --delete``."""
    for path in home.rglob(".lock"):
        require_free(path)
    collect_leftovers(DataLayout(home=home), delete=True)
    places = ("shards", "runs", "embeddings", "lancedb", "mlflow")
    assert [path for place in places for path in (home / place).rglob(".*.tmp")] == []


@pytest.mark.parametrize("name", ["shards", "training"])
def test_killed_at_a_few_points(
    run: Callable[..., int], prepared: Path, small: dict[str, object], name: str
):
    stage = stages(small)[name]
    assert sweep(run, prepared, stage, stage.points) == len(stage.points)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["shards", "training", "embedding", "promotion"])
def test_killed_at_every_point(
    run: Callable[..., int], prepared: Path, small: dict[str, object], name: str
):
    prepare(run, prepared, name)
    points = sweep(run, prepared, stages(small)[name], range(1, MOST_POINTS))
    print(f"{name}: killed at {points} points")  # noqa: T201 - for the table of reliability
    assert 2 < points < MOST_POINTS - 1


def prepare(run: Callable[..., int], home: Path, name: str) -> None:
    """A promotion needs a gallery."""
    if name == "promotion":
        assert run(home, ["embed", "demo", "--models", "film", "--precision", "fp32"]) == 0


def test_the_variable_is_the_one_that_is_read():
    assert CRASH_AT == "STEMS_CRASH_AT"
