"""Wherever a command is killed, the same command once more ends as if nothing had happened.

Every change on disk that lasts goes by ``ml.artifacts.crash_point``, before and after; a process
ends there, by SIGKILL, at the number that ``STEMS_CRASH_AT`` says. A few of these points of one
command are tried here, all points of all commands under the marker ``soak``.
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

import numpy as np
import pytest
import soundfile

from ml.artifacts import CRASH_AT, DataLayout, read_json
from ml.corpora.corpus import open_corpus
from ml.corpora.table import build_corpus_tracks, read_corpus_tracks
from ml.locks import require_free
from ml.mlflow_store import mlflow_client
from ml.retrieval.champion.champion import write_champion
from ml.training.models import find_model
from ml.upkeep import collect_leftovers

pytestmark = [pytest.mark.faults, pytest.mark.slow]

MOST_POINTS = 500
SERVER = """
import os, sys, traceback
import lancedb, polars, torch
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
"""Forks a process a command: packages are imported once, lancedb (4 s of the processor) among them.

None of them does anything before the fork. It saves a checkpoint at every step.
"""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command, and what it leaves behind."""

    words: Sequence[str]
    places: Sequence[str]
    """What it changes; each time as it was before."""
    state: Callable[[Path], Mapping[str, object]]
    """What must be the same afterwards."""


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
    run = home.joinpath(read_json(home / "runs" / "models.json")["contrastive"]).parent
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
    """The pointer, and MLflow's alias with all versions that there are."""
    found = read_json(home / "lancedb" / "champion.json")
    client = mlflow_client(tracking_uri(home))
    versions = client.search_model_versions("")
    return {
        **{name: found[name] for name in ("model_id", "previous", "mlflow_version")},
        "versions": [(version.version, version.tags) for version in versions],
        "alias": client.get_model_version_by_alias(versions[0].name, "champion").version,
    }


def tracking_uri(home: Path) -> str:
    return f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"


def played(home: Path) -> Mapping[str, object]:
    """What was rendered, by its bytes, and the rows of the corpus."""
    rows = read_corpus_tracks(DataLayout(home=home), "played")
    return {
        **digests("corpora/played/*/*.flac", "corpora/played/*.json")(home),
        "rows": rows.select("stem_id", "track_id", "duration_s", "files").to_dicts(),
    }


def indexed(home: Path) -> Mapping[str, object]:
    return {**published(home), **digests("config.yaml", "tracks/*/*.parquet")(home)}


def stages(home: Path, small: Mapping[str, object]) -> dict[str, Stage]:
    fields = [f"{name}={value}" for name, value in {**small, "steps": 3}.items()]
    return {
        "shards": Stage(
            words=["shards", "build", "demo", "--workers", "1"],
            places=["shards"],
            state=digests("shards/demo/*.tar", "shards/demo/*.json"),
        ),
        "training": Stage(
            words=["train", "--preset", "contrastive", "--corpora", "demo", "--set", *fields],
            places=["runs", "mlflow"],
            state=training,
        ),
        "embedding": Stage(
            words=["embed", "demo", "--models", "film", "--precision", "fp32"],
            places=["embeddings", "lancedb"],
            state=published,
        ),
        "promotion": Stage(
            words=["promote", "film", "--force"],
            places=["lancedb/champion.json", "mlflow"],
            state=champion,
        ),
        "midi": Stage(
            words=["corpus", "build", "played", "--workers", "1"],
            places=["corpora/played", "tracks/played"],
            state=played,
        ),
        "index": Stage(
            words=["index", str(home / "songs")],
            places=["config.yaml", "tracks", "labels", "embeddings", "lancedb"],
            state=indexed,
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
    command = [sys.executable, "-W", "ignore:lancedb fork", "-c", SERVER]
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
    settings = "corpora:\n  demo: {kind: demo, root: corpora/demo}\n"
    (home / "config.yaml").write_text(settings + "promotion: {requires_mix: false}\n")
    return home


def sweep(run: Callable[..., int], home: Path, stage: Stage, points: Sequence[int]) -> int:
    """Kill a command at these points, each time from its beginning; returns how often it was."""
    before = home.with_name("before")

    def begin() -> None:
        for name in stage.places:
            copy(before / name, home / name)

    for name in stage.places:
        copy(home / name, before / name)
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


def copy(source: Path, target: Path) -> None:
    """Make one what the other is; where there is none, there is none."""
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        shutil.copy2(source, target)


def require_nothing_left(home: Path) -> None:
    """No lock is held, and what is half-written goes with ``stems gc --delete``."""
    for path in home.rglob(".lock"):
        require_free(path)
    collect_leftovers(DataLayout(home=home), delete=True)
    places = ("shards", "runs", "embeddings", "lancedb", "mlflow")
    assert [path for place in places for path in (home / place).rglob(".*.tmp")] == []


def test_killed_at_a_few_points(run: Callable[..., int], prepared: Path, small: dict[str, object]):
    """Of making shards; ``tests/ml/training`` kills trainings."""
    points = (1, 4)
    assert sweep(run, prepared, stages(prepared, small)["shards"], points) == len(points)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["shards", "training", "embedding", "promotion", "midi", "index"])
def test_killed_at_every_point(
    run: Callable[..., int],
    prepared: Path,
    small: dict[str, object],
    name: str,
    request: pytest.FixtureRequest,
):
    if name in PREPARE:
        request.getfixturevalue(PREPARE[name])
    points = sweep(run, prepared, stages(prepared, small)[name], range(1, MOST_POINTS))
    print(f"{name}: killed at {points} points")  # noqa: T201 - for the table of reliability
    assert 2 < points < MOST_POINTS - 1


PREPARE = {"promotion": "gallery", "midi": "notes", "index": "songs"}
"""What a command needs besides a home."""


@pytest.fixture
def gallery(run: Callable[..., int], prepared: Path) -> None:
    """Stems to find, and a store of MLflow."""
    assert run(prepared, ["embed", "demo", "--models", "film", "--precision", "fp32"]) == 0
    mlflow_client(tracking_uri(prepared))


@pytest.fixture
def notes(
    run: Callable[..., int], prepared: Path, song: Callable[..., Path], soundfonts: list[Path]
) -> None:
    """A corpus of two MIDI files."""
    for number in range(2):
        song(prepared / "notes" / f"{number}.mid", pitch=50 + number)
    options = (f"soundfonts={soundfonts[0]}", "seconds=8", "renderings=1")
    words = [word for option in options for word in ("--option", option)]
    assert run(prepared, ["corpus", "add", "played", "midi", str(prepared / "notes"), *words]) == 0


@pytest.fixture
def songs(prepared: Path) -> None:
    """A champion that has no tables yet, and a folder of stems beside the corpora."""
    layout = DataLayout(home=prepared)
    model = find_model(layout, "film")
    assert model.checkpoint is not None
    write_champion(layout, model.model_id, model.checkpoint)
    for name in ("first", "second"):
        for seed, stem in enumerate(("bass guitar", "piano")):
            noise = 0.1 * np.random.default_rng(seed).standard_normal(48_000)
            path = prepared / "songs" / name / f"{stem}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, noise, 16_000)


def test_the_variable_is_the_one_that_is_read():
    assert CRASH_AT == "STEMS_CRASH_AT"
