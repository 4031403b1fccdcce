"""Builds that are killed, by real processes and SIGKILL."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ml.artifacts import DataLayout
from ml.corpora.corpus import open_corpus
from ml.corpora.label_embeddings import build_label_embeddings
from ml.corpora.table import build_corpus_tracks

pytestmark = [pytest.mark.faults, pytest.mark.slow]

HANGS_S = 180
"""Only bounds what would otherwise hang."""

BUILD = """
import sys
from pathlib import Path
from ml.artifacts import DataLayout
from ml.shards.plan import ShardConfig
from ml.shards.build import build_shards
if __name__ == "__main__":
    config = ShardConfig(segment_s=6.0, shard_segments=8, chunk_s=2.0)
    build_shards("demo", DataLayout(home=Path(sys.argv[1])), config, workers=int(sys.argv[2]))
"""

SCAN = """
import sys, time
from pathlib import Path
import ml.corpora.scan
from ml.artifacts import DataLayout
from ml.corpora.corpus import open_corpus
from ml.corpora.table import build_corpus_tracks

scan_stem = ml.corpora.scan.scan_stem
def slowly(*args):
    time.sleep(0.02)
    return scan_stem(*args)
ml.corpora.scan.scan_stem = slowly
build_corpus_tracks("demo", open_corpus("folder", sys.argv[2]), DataLayout(home=Path(sys.argv[1])))
"""


@pytest.fixture
def corpus(flac_corpus, tmp_path):
    """The corpus of the other tests in a home of its own, with its tables, without shards."""
    made = flac_corpus.in_home(tmp_path / "home")
    build_corpus_tracks(made.name, made, made.layout)
    build_label_embeddings(made.name, made.layout, made.encoder)
    return made


def temporary(corpus):
    return list(corpus.folder.glob(".*.tmp"))


def shards(n):
    """Whether at least n shards have their index."""
    return lambda corpus: len(list(corpus.folder.glob("*.index.json"))) >= n


MOMENTS = {
    "first bytes": temporary,
    "one shard": shards(1),
}


def test_a_build_that_is_killed_again_and_again_ends_the_same(corpus, flac_corpus, tmp_path):
    assert len(flac_corpus.shard_bytes()) > 2
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    for is_reached in MOMENTS.values():
        done = file_times(corpus)
        process = subprocess.Popen(
            [sys.executable, script, corpus.layout.home, "2"],
            env={**os.environ, "STEMS_TEST": str(tmp_path)},
        )
        kill_when(process, lambda: is_reached(corpus))  # noqa: B023 - called before the next one
        assert not (corpus.folder / "manifest.json").exists()
        assert file_times(corpus).items() >= done.items()  # what was finished is not touched
    assert are_gone(f"STEMS_TEST={tmp_path}")
    (corpus.folder / ".train.stale.tmp").write_bytes(b"half a shard")
    done = file_times(corpus)
    assert done
    corpus.build()
    assert corpus.shard_bytes() == flac_corpus.shard_bytes()
    assert file_times(corpus).items() >= done.items()
    assert not temporary(corpus)
    unfinished = corpus.folder / "unfinished.json"
    assert not unfinished.exists()
    unfinished.write_text('{"tasks": []}')  # as where it is killed behind the manifest
    corpus.build()
    assert not unfinished.exists()


def test_a_scan_that_is_killed_goes_on_where_it_was(tmp_path, flac_corpus):
    layout = DataLayout(home=tmp_path)
    record = layout.tracks("demo") / "scans.jsonl"
    script = tmp_path / "scan.py"
    script.write_text(SCAN)
    process = subprocess.Popen([sys.executable, script, tmp_path, flac_corpus.root])
    kill_when(process, lambda: record.is_file() and record.read_bytes().count(b"\n") >= 5)
    lines = record.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    assert 5 <= len(whole) < 20
    record.write_text("".join(whole) + '{"stem_id":"song 0.v1/ba')  # as if killed while writing
    artifact = build_corpus_tracks("demo", open_corpus("folder", flac_corpus.root), layout)
    assert record.read_text().startswith("".join(whole))
    other = DataLayout(home=tmp_path / "other")
    fresh = build_corpus_tracks("demo", open_corpus("folder", flac_corpus.root), other)
    assert artifact.fingerprint == fresh.fingerprint
    assert record.read_text() == (other.tracks("demo") / "scans.jsonl").read_text()


def kill_when(process, is_reached):
    deadline = time.monotonic() + HANGS_S
    while process.poll() is None and not is_reached():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()


def file_times(corpus):
    """Finished shards by name: those with an index."""
    indexes = corpus.folder.glob("*.index.json")
    tars = [path.with_name(path.name.replace(".index.json", ".tar")) for path in indexes]
    return {path.name: path.stat().st_mtime_ns for path in tars}


def are_gone(variable):
    """Whether no process with this variable is left within a few seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not any(has_variable(path, variable) for path in Path("/proc").glob("[0-9]*")):
            return True
        time.sleep(0.05)
    return False


def has_variable(process, variable):
    try:
        return variable.encode() in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
