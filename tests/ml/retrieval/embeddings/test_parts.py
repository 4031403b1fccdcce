"""A pass that was stopped goes on where it was; the workers of an executor make the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ml.artifacts import ArtifactError, DataLayout
from ml.corpora.corpus import open_corpus
from ml.corpora.label_embeddings import read_label_vectors
from ml.corpora.table import build_corpus_tracks
from ml.labels.clap_files import ClapFiles
from ml.locks import LockedError, lock
from ml.models.config import StemJepaConfig
from ml.models.predictor import PredictorConfig
from ml.models.stem_jepa import StemJepa
from ml.models.vit import ViTConfig
from ml.parquet import join_tables, read_table, write_table
from ml.retrieval.champion.champion import write_champion
from ml.retrieval.embeddings import parts
from ml.retrieval.embeddings.baselines import ClapAudioModel, load_models
from ml.retrieval.embeddings.build import embed_corpus, embed_predecessor
from ml.retrieval.embeddings.files import StemRow, predecessor_folder, stem_table
from ml.retrieval.embeddings.parts import PARTS, parts_of
from ml.retrieval.embeddings.source import open_source

TRACKS = 6
SPLITS = ("train", "valid", "test")


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is as long as a track here and a bit: begun tracks belong to it."""
    monkeypatch.setattr(parts, "PART_S", 5.0)


@pytest.fixture
def songs(write_corpus: Any, make_sine: Any) -> Path:
    """Tracks of two stems of 1.5 s, three seconds of stems each."""
    return write_songs(write_corpus, make_sine, first_band=0)


def write_songs(write_corpus: Any, make_sine: Any, *, first_band: int) -> Path:
    tracks = {
        f"track {i}": {
            "low": ("bass", make_sine(first_band + i, 1.5)),
            "high": ("piano", make_sine(39 - i, 1.5)),
        }
        for i in range(TRACKS)
    }
    return write_corpus("songs", tracks)


class StoppedError(Exception):
    pass


class StoppingExecutor(Executor):
    """Does what it is given at once; stops after so many units."""

    def __init__(self, after: int = 10**6):
        self.units, self.after = 0, after

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.units += 1
        if self.units > self.after:
            future.set_exception(StoppedError())
        else:
            future.set_result(fn(*args, **kwargs))
        return future


def stopping_model(band_model: Any, name: str = "bands", *, after: int = 10**6) -> Any:
    """A model that fails at a batch of stems; ``batches`` says how many it has seen."""

    class StoppingModel(band_model):
        batches = 0

        def gallery_vectors(self, mel: Tensor) -> Tensor:
            type(self).batches += 1
            if self.batches > after:
                raise StoppedError
            return super().gallery_vectors(mel)

    return StoppingModel(name, phase="jepa")


def embeddings(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def other_home(layout: DataLayout, name: str = "other") -> DataLayout:
    """The same tables, no embeddings."""
    home = layout.home.with_name(name)
    shutil.copytree(layout.home, home, ignore=shutil.ignore_patterns("embeddings"))
    return DataLayout(home=home)


def made(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / PARTS).glob("0*"))


@pytest.mark.usefixtures("songs")
def test_parts_are_all_tracks_in_their_order(layout: DataLayout) -> None:
    source = open_source("songs", layout, None)
    found = parts_of(source)
    assert [len(part.tracks) for part in found] == [2, 2, 1, 1]  # begun at 0, 3 | 6, 9 | 12 | 15 s
    assert [track for part in found for track in part.tracks] == list(source.tracks)
    stems = [stem for track in source.tracks for stem in track.stems]
    for part in found:
        assert stems[part.stems] == [stem for track in part.tracks for stem in track.stems]
    assert [part.number for part in found] == [0, 1, 2, 3]


def test_a_stopped_pass_goes_on_where_it_was(
    songs: Path, layout: DataLayout, band_model: Any, label_vectors: dict[str, np.ndarray]
) -> None:
    other = other_home(layout)
    (whole,) = embed_corpus("songs", [stopping_model(band_model)], other, label_vectors)
    with pytest.raises(StoppedError):
        embed_corpus("songs", [stopping_model(band_model, after=2)], layout, label_vectors)
    folder = layout.embeddings("id-bands", "songs")
    assert made(folder) == ["000000", "000001"]
    assert not (folder / "manifest.json").exists()
    for i in range(4):  # of the two parts that are done, nothing is read again
        shutil.rmtree(songs / f"track {i}")
    model = stopping_model(band_model)
    (artifact,) = embed_corpus("songs", [model], layout, label_vectors)
    assert model.batches == 2
    assert embeddings(artifact.path) == embeddings(whole.path)
    assert artifact.summary == whole.summary
    assert artifact.summary["gallery"] == 2 * TRACKS
    assert not (folder / PARTS).exists()


@pytest.mark.usefixtures("songs")
def test_each_model_goes_on_where_it_was(
    layout: DataLayout, band_model: Any, label_vectors: dict[str, np.ndarray]
) -> None:
    with pytest.raises(StoppedError):
        embed_corpus("songs", [stopping_model(band_model, "one", after=3)], layout, label_vectors)
    models = [stopping_model(band_model, name) for name in ("one", "two")]
    one, two = embed_corpus("songs", models, layout, label_vectors)
    assert [model.batches for model in models] == [1, 4]
    for name in ("gallery.parquet", "chunks.parquet", "queries-fine.parquet"):
        assert embeddings(one.path)[name] == embeddings(two.path)[name]


@pytest.mark.usefixtures("songs")
@pytest.mark.parametrize("change", ["audio", "conditioning", "precision", "length of parts"])
def test_parts_of_other_inputs_are_not_used(
    change: str,
    layout: DataLayout,
    band_model: Any,
    label_vectors: dict[str, np.ndarray],
    write_corpus: Any,
    make_sine: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(StoppedError):
        embed_corpus("songs", [stopping_model(band_model, after=2)], layout, label_vectors)
    options: dict[str, Any] = {}
    if change == "audio":
        shutil.rmtree(layout.tracks("songs"))
        write_songs(write_corpus, make_sine, first_band=10)
    elif change == "conditioning":
        options = {"conditioning": "none"}
    elif change == "precision":
        options = {"precision": "fp32"}
    else:
        monkeypatch.setattr(parts, "PART_S", 1.0)
    other = other_home(layout)
    for place in (layout, other):
        model = stopping_model(band_model)
        (artifact,) = embed_corpus("songs", [model], place, label_vectors, **options)
        assert model.batches == len(parts_of(open_source("songs", place, None)))
        assert embeddings(artifact.path) == embeddings(layout.embeddings("id-bands", "songs"))


@pytest.mark.usefixtures("songs")
def test_the_predecessors_protocol_goes_on_too(
    layout: DataLayout, label_vectors: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    predictor = PredictorConfig(dim=16, hidden=24, layers=3, condition_dim=40)
    encoder = ViTConfig(dim=16, layers=1, heads=2)
    model = StemJepa(StemJepaConfig(encoder=encoder, predictor=predictor, chunk_s=0.5)).eval()
    model.manifest = {"name": "film", "model_id": "id-film"}
    other = other_home(layout)
    (whole,) = embed_predecessor("songs", [model], other, label_vectors)
    forward, seen = type(model.encoder).forward, []

    def stop(self: Any, mel: Tensor) -> Tensor:
        seen.append(len(mel))
        if len(seen) > 20:
            raise StoppedError
        return forward(self, mel)

    with monkeypatch.context() as patched:
        patched.setattr(type(model.encoder), "forward", stop)
        with pytest.raises(StoppedError):
            embed_predecessor("songs", [model], layout, label_vectors)
    folder = predecessor_folder(layout, "id-film", "songs")
    before = made(folder)
    assert 0 < len(before) < 4
    (artifact,) = embed_predecessor("songs", [model], layout, label_vectors)
    assert embeddings(artifact.path) == embeddings(whole.path)
    assert not (folder / PARTS).exists()


@pytest.mark.usefixtures("songs")
def test_two_processes_do_not_share_parts(
    layout: DataLayout, band_model: Any, label_vectors: dict[str, np.ndarray]
) -> None:
    with (
        lock(layout.embeddings("id-bands", "songs") / ".lock"),
        pytest.raises(LockedError, match="is being written by process"),
    ):
        embed_corpus("songs", [band_model(phase="jepa")], layout, label_vectors)


@pytest.mark.usefixtures("songs")
def test_a_damaged_part_is_named(
    layout: DataLayout, band_model: Any, label_vectors: dict[str, np.ndarray]
) -> None:
    with pytest.raises(StoppedError):
        embed_corpus("songs", [stopping_model(band_model, after=2)], layout, label_vectors)
    part = layout.embeddings("id-bands", "songs") / PARTS / "000001"
    (part / "chunks.parquet").write_bytes(b"half")
    with pytest.raises(ArtifactError, match=r"delete .*000001 and make it again"):
        embed_corpus("songs", [stopping_model(band_model)], layout, label_vectors)
    shutil.rmtree(part)
    embed_corpus("songs", [stopping_model(band_model)], layout, label_vectors)


def test_joined_tables_have_all_rows_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr("ml.parquet._ROWS_A_GROUP", 4)
    vectors = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    rows = [
        StemRow(
            stem_id=f"a/{i}",
            track_id="a",
            corpus="songs",
            split=None,
            label="bass",
            category=None,
            labels=(),
            duration_s=1.0,
            audio="",
        )
        for i in range(11)
    ]
    tables = [
        stem_table(rows[first:stop], vectors[first:stop])
        for first, stop in pairwise([0, 0, 3, 5, 10, 11])  # one is empty
    ]
    paths = [tmp_path / f"{i}.parquet" for i in range(len(tables))]
    for table, path in zip(tables, paths, strict=True):
        write_table(table, path)
    into = tmp_path / "whole.parquet"
    assert join_tables(paths, into) == 11
    assert read_table(into).equals(pa.concat_tables(tables))
    file = pq.ParquetFile(into)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [5, 5, 1]


@pytest.fixture
def trained(home: Path, monkeypatch: pytest.MonkeyPatch) -> DataLayout:
    """A small trained home whose demo corpus has several parts."""
    monkeypatch.setattr(parts, "PART_S", 60.0)
    parts.worker_model.cache_clear()
    made = DataLayout(home=home)
    corpus = open_corpus("demo", home / "corpora" / "demo")
    build_corpus_tracks("demo", corpus, made)  # the files lie elsewhere than when it was made
    assert len(parts_of(open_source("demo", made, SPLITS))) > 3
    return made


def embed(layout: DataLayout, models: list[Any], **options: Any) -> list[dict[str, bytes]]:
    vectors = read_label_vectors(layout, "demo")
    made = embed_corpus("demo", models, layout, vectors, splits=SPLITS, **options)
    return [embeddings(artifact.path) for artifact in made]


def test_workers_make_the_same_bytes_as_this_process(trained: DataLayout) -> None:
    models = load_models(trained, ["contrastive", "film", "spectrum"])
    here = embed(other_home(trained), models)
    with ThreadPoolExecutor(2) as threads:
        assert embed(trained, models, executor=threads) == here
    assert parts.worker_model.cache_info().currsize == 3  # each was loaded, and once a process


def test_what_was_made_before_an_executor_failed_is_kept(trained: DataLayout) -> None:
    models = load_models(trained, ["film"])
    here = embed(other_home(trained), models)
    with pytest.raises(StoppedError):
        embed(trained, models, executor=StoppingExecutor(after=2))
    folder = trained.embeddings(models[0].model_id, "demo")
    n_made = len(list((folder / PARTS).glob("0*")))
    assert n_made <= 2
    assert not (folder / "manifest.json").exists()
    executor = StoppingExecutor()
    assert embed(trained, models, executor=executor) == here
    assert executor.units == len(parts_of(open_source("demo", trained, SPLITS))) - n_made
    assert not (folder / PARTS).exists()


def test_a_champion_that_is_no_current_model_is_found(trained: DataLayout) -> None:
    elsewhere = shutil.copytree(
        next(trained.runs.glob("film-tiny*/model")), trained.home.with_name("champion")
    )
    models = load_models(trained, ["film"])
    write_champion(trained, models[0].model_id, elsewhere)
    shutil.rmtree(trained.runs)
    (tables,) = embed(trained, models, executor=StoppingExecutor())
    assert "gallery.parquet" in tables


def test_clap_is_loaded_from_the_files_of_the_settings(trained: DataLayout, tiny_clap: ClapFiles):
    model_id = ClapAudioModel(tiny_clap).model_id
    assert parts.worker_model(model_id, trained, tiny_clap).model_id == model_id
    with pytest.raises(ArtifactError, match="expected clap-audio-0123; put the same files"):
        parts.worker_model("clap-audio-0123", trained, tiny_clap)


def test_a_worker_without_the_models_says_so(trained: DataLayout) -> None:
    models = load_models(trained, ["film"])
    shutil.rmtree(trained.runs)
    with pytest.raises(ArtifactError, match=r"no checkpoint of the model .*share it with them"):
        embed(trained, models, executor=StoppingExecutor())


PROGRAM = """
import sys, time
from pathlib import Path
from ml.artifacts import DataLayout
from ml.corpora.label_embeddings import read_label_vectors
from ml.models.stem_jepa import StemJepa
from ml.retrieval.embeddings import parts
from ml.retrieval.embeddings.baselines import load_models
from ml.retrieval.embeddings.build import embed_corpus

parts.PART_S = 60.0
layout = DataLayout(home=Path(sys.argv[1]))
gallery_vectors = StemJepa.gallery_vectors


def slowly(self, mel):
    time.sleep(0.3)
    return gallery_vectors(self, mel)


StemJepa.gallery_vectors = slowly
models = load_models(layout, ["film", "contrastive"])
splits = ["train", "valid", "test"]
embed_corpus("demo", models, layout, read_label_vectors(layout, "demo"), splits=splits)
"""


@pytest.mark.slow
@pytest.mark.faults
def test_a_process_killed_with_sigkill_goes_on_to_the_same_bits(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_S", 60.0)
    layout = DataLayout(home=home)
    corpus = open_corpus("demo", home / "corpora" / "demo")
    build_corpus_tracks("demo", corpus, layout)  # the files lie elsewhere than when it was made
    models = load_models(layout, ["film", "contrastive"])
    folders = [layout.embeddings(model.model_id, "demo") for model in models]
    other = DataLayout(home=shutil.copytree(home, tmp_path / "other"))
    for count in (1, 3):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(home)], env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        deadline = time.monotonic() + 240  # bounds a hang
        while len(made(folders[1])) < count:
            assert process.poll() is None
            assert time.monotonic() < deadline, "no part"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folders[0] / "manifest.json").exists()
    vectors, splits = read_label_vectors(layout, "demo"), ["train", "valid", "test"]
    resumed = embed_corpus("demo", models, layout, vectors, splits=splits)
    whole = embed_corpus("demo", models, other, vectors, splits=splits)
    for one, two in zip(resumed, whole, strict=True):
        assert embeddings(one.path) == embeddings(two.path)
        assert not (one.path / PARTS).exists()
