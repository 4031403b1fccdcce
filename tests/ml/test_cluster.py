"""Shards and embeddings by a real Dask cluster of two processes, one of which is killed.

What they make goes to an S3-compatible store on loopback. A worker is killed while it waits at the
worst moment: its tar is in the store and the index is not, or its part is computed and not sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from ml.artifacts import DataLayout
from ml.cli.main import main
from ml.corpora.corpus import open_corpus
from ml.corpora.label_embeddings import read_label_vectors
from ml.corpora.table import build_corpus_tracks
from ml.parquet import read_table
from ml.processes import WorkersError, cluster, completed
from ml.retrieval.embeddings import parts
from ml.retrieval.embeddings.baselines import load_models
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.embeddings.files import vectors_of
from ml.shards.build import build_shards
from ml.shards.folders import built_folder
from ml.shards.inspect import check_shards
from ml.shards.plan import ShardConfig

pytestmark = [pytest.mark.service, pytest.mark.faults, pytest.mark.slow]

T = TypeVar("T")
HANGS_S = 180
"""Only bounds what would otherwise hang."""
CONFIG = ShardConfig(payload="pcm16", shard_segments=2)
URI = "s3://stems/shards"
SPLITS = ("train", "valid", "test")

CLUSTER = """
import sys
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        memory_limit=0,
        host="127.0.0.1",
        scheduler_port=0,
        dashboard_address=None,
        worker_dashboard_address=None,
        local_directory=sys.argv[1],
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""
GATE = """
import os, threading
from pathlib import Path
import ml.retrieval.embeddings.files, ml.shards.folders

def wait_to_be_killed(kind):
    wish = Path({folder!r}) / kind
    mine = wish.with_suffix(f".{{os.getpid()}}")
    try:
        wish.rename(mine)  # by one worker, once
    except FileNotFoundError:
        return
    mine.rename(wish.with_suffix(".victim-" + str(os.getpid())))
    threading.Event().wait()

def gate(module, name, kind, after):
    function = getattr(module, name)
    def gated(*args):
        if not after:
            wait_to_be_killed(kind)
        result = function(*args)
        if after:
            wait_to_be_killed(kind)
        return result
    setattr(module, name, gated)

gate(ml.shards.folders, "_put_index", "shards", after=False)
gate(ml.retrieval.embeddings.files, "query_table", "parts", after=True)
"""


@dataclass(frozen=True, kw_only=True)
class Dask:
    """A cluster whose workers can be killed at a gate."""

    process: subprocess.Popen[str]
    address: str
    folder: Path

    def do(self, work: Callable[[], T], *, kill: str) -> T:
        """What ``work`` returns, with the first worker that comes to a gate killed there."""
        (self.folder / kill).touch()
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        deadline = time.monotonic() + HANGS_S
        while not (victims := list(self.folder.glob(f"{kill}.victim-*"))):
            assert not done.done(), f"no worker came to the gate: {done.exception()}"
            assert time.monotonic() < deadline, "no worker came to the gate"
            time.sleep(0.01)
        os.kill(int(victims[0].name.rpartition("-")[2]), signal.SIGKILL)
        return done.result(timeout=HANGS_S)


@pytest.fixture(scope="module")
def dask(
    s3_credentials: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dask]:
    pytest.importorskip("distributed")
    folder = tmp_path_factory.mktemp("dask")
    script, gate = folder / "cluster.py", folder / "gate.py"
    script.write_text(CLUSTER)
    gate.write_text(GATE.format(folder=str(folder)))
    environment = {
        **os.environ,
        **s3_credentials,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "DASK_DISTRIBUTED__WORKER__PRELOAD": json.dumps([str(gate)]),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "2",
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": f"{HANGS_S}s",
    }
    pipe = subprocess.PIPE
    command = [sys.executable, script, folder / "scratch"]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
    assert process.stdout is not None
    yield Dask(process=process, address=process.stdout.readline().strip(), folder=folder)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=60)  # closes its input, which ends it
    process.kill()


@pytest.fixture
def layout(home: Path) -> DataLayout:
    """A small trained home without shards; its training reads them in the store."""
    made = DataLayout(home=home, shards_uri=URI, lancedb_uri="s3://stems/tables")
    corpus = open_corpus("demo", home / "corpora" / "demo")
    build_corpus_tracks("demo", corpus, made)  # the files lie elsewhere than when it was made
    shutil.rmtree(home / "shards")
    return made


@pytest.fixture
def local(layout: DataLayout, tmp_path: Path) -> DataLayout:
    """The same without a cluster and a store."""
    return DataLayout(home=shutil.copytree(layout.home, tmp_path / "local"))


def objects(s3: Any, prefix: str) -> dict[str, bytes]:
    listed = s3.list_objects_v2(Bucket="stems", Prefix=prefix).get("Contents", [])
    found = {x["Key"]: s3.get_object(Bucket="stems", Key=x["Key"]) for x in listed}
    return {key.removeprefix(prefix): answer["Body"].read() for key, answer in found.items()}


def test_shards_are_in_the_store_once_each_though_a_worker_is_killed(
    s3: Any, dask: Dask, layout: DataLayout, local: DataLayout
) -> None:
    def build() -> Any:
        with cluster(dask.address) as executor:
            return build_shards("demo", layout, CONFIG, executor=executor, uri=URI)

    artifact = dask.do(build, kill="shards")
    wanted = build_shards("demo", local, CONFIG, workers=2)
    assert artifact.fingerprint == wanted.fingerprint
    assert artifact.summary == wanted.summary
    assert artifact.summary["shards"] > 4
    found, here = objects(s3, "shards/demo/"), files(wanted.path)
    manifest = json.loads(found.pop("manifest.json"))
    assert manifest.pop("url") == f"{URI}/demo"
    assert manifest == json.loads(here.pop("manifest.json"))
    assert found == here  # every tar and every index, and none beside
    assert files(artifact.path).keys() == {"manifest.json"}
    assert check_shards(built_folder(layout, "demo")).problems == ()
    assert build().reused


def test_embeddings_are_those_of_this_process_though_a_worker_is_killed(
    s3: Any, dask: Dask, layout: DataLayout, local: DataLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml.retrieval.tables.database import database_uri, open_table
    from ml.retrieval.tables.publish import STEM_TABLE, publish_corpus

    monkeypatch.setattr(parts, "PART_S", 60.0)
    models = load_models(layout, ["film", "spectrum"])
    vectors = read_label_vectors(layout, "demo")

    def embed(place: DataLayout, **options: Any) -> Any:
        return embed_corpus("demo", models, place, vectors, splits=SPLITS, **options)

    def embed_there() -> Any:
        with cluster(dask.address) as executor:
            return embed(layout, executor=executor)

    made = dask.do(embed_there, kill="parts")
    for artifact, wanted in zip(made, embed(local), strict=True):
        assert artifact.fingerprint == wanted.fingerprint
        assert artifact.summary == wanted.summary
        for name in ("gallery.parquet", "chunks.parquet", "queries-fine.parquet"):
            assert_same_rows(artifact.path / name, wanted.path / name)
    assert embed_there()[0].reused
    publish_corpus(layout, models[0].model_id, "demo")
    table = open_table(database_uri(layout, models[0].model_id), STEM_TABLE)
    ids = table.to_arrow()["stem_id"].to_pylist()
    assert len(ids) == len(set(ids)) == made[0].summary["gallery"]
    assert objects(s3, "tables/")


def test_the_command_line_asks_the_cluster_of_the_settings(
    s3: Any, dask: Dask, layout: DataLayout, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("STEMS_COMPUTE__DASK_SCHEDULER", dask.address)
    monkeypatch.setenv("STEMS_SHARDS__URI", URI)
    home = ["--home", str(layout.home)]
    assert main([*home, "shards", "build", "demo"]) == 0
    assert "manifest.json" in objects(s3, "shards/demo/")
    assert main([*home, "shards", "inspect", "demo"]) == 0
    assert "every checksum is right" in capsys.readouterr().out
    assert main([*home, "embed", "demo", "--models", "film", "--no-publish"]) == 0
    assert "film: " in capsys.readouterr().out
    (layout.home / "corpora" / "demo").rename(layout.home / "corpora" / "gone")
    assert main([*home, "shards", "build", "demo", "--fresh"]) != 0
    assert "does not exist" in capsys.readouterr().err  # what a worker found is said here


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*.*")}


def assert_same_rows(one: Path, other: Path) -> None:
    """The same rows in the same order; vectors to rounding, they come from two processes."""
    left, right = read_table(one), read_table(other)
    assert left.drop_columns(["vector"]).equals(right.drop_columns(["vector"]))
    np.testing.assert_allclose(vectors_of(left), vectors_of(right), atol=1e-5)


def test_work_that_kills_every_worker_is_given_up_and_named(dask: Dask) -> None:
    with (
        cluster(dask.address) as executor,
        pytest.raises(WorkersError, match=r"3 workers died over the same unit.*memory limit"),
    ):
        assert executor is not None
        list(completed(executor, os._exit, [3]))
