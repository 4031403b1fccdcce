"""Parts that the workers of an executor compute, with models that they load from the home."""

from __future__ import annotations

import shutil
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ml.artifacts import ArtifactError, DataLayout
from ml.corpora.corpus import open_corpus
from ml.corpora.label_embeddings import read_label_vectors
from ml.corpora.table import build_corpus_tracks
from ml.labels.clap_files import ClapFiles
from ml.retrieval.champion.champion import write_champion
from ml.retrieval.embeddings import parts
from ml.retrieval.embeddings import parts as part_jobs
from ml.retrieval.embeddings.baselines import load_models
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.embeddings.parts import PARTS, parts_of
from ml.retrieval.embeddings.source import open_source

SPLITS = ("train", "valid", "test")


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


@pytest.fixture
def layout(home: Path, monkeypatch: pytest.MonkeyPatch) -> DataLayout:
    """A small trained home whose demo corpus has several parts."""
    monkeypatch.setattr(parts, "PART_S", 60.0)
    part_jobs._load.cache_clear()
    made = DataLayout(home=home)
    corpus = open_corpus("demo", home / "corpora" / "demo")
    build_corpus_tracks("demo", corpus, made)  # the files lie elsewhere than when it was made
    assert len(parts_of(open_source("demo", made, SPLITS))) > 3
    return made


def embed(layout: DataLayout, models: list[Any], **options: Any) -> list[dict[str, bytes]]:
    vectors = read_label_vectors(layout, "demo")
    made = embed_corpus("demo", models, layout, vectors, splits=SPLITS, **options)
    return [embeddings(artifact.path) for artifact in made]


def embeddings(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def other_home(layout: DataLayout) -> DataLayout:
    return DataLayout(home=shutil.copytree(layout.home, layout.home.with_name("other")))


def test_workers_make_the_same_bytes_as_this_process(layout: DataLayout) -> None:
    models = load_models(layout, ["contrastive", "film", "spectrum"])
    here = embed(other_home(layout), models)
    with ThreadPoolExecutor(2) as threads:
        assert embed(layout, models, executor=threads) == here
    assert part_jobs._load.cache_info().currsize == 3  # each was loaded, and once a process


def test_what_was_made_before_an_executor_failed_is_kept(layout: DataLayout) -> None:
    models = load_models(layout, ["film"])
    here = embed(other_home(layout), models)
    with pytest.raises(StoppedError):
        embed(layout, models, executor=StoppingExecutor(after=2))
    folder = layout.embeddings(models[0].model_id, "demo")
    n_made = len(list((folder / PARTS).glob("0*")))
    assert n_made <= 2
    assert not (folder / "manifest.json").exists()
    executor = StoppingExecutor()
    assert embed(layout, models, executor=executor) == here
    assert executor.units == len(parts_of(open_source("demo", layout, SPLITS))) - n_made
    assert not (folder / PARTS).exists()


def test_a_champion_that_is_no_current_model_is_found(layout: DataLayout) -> None:
    elsewhere = shutil.copytree(
        next(layout.runs.glob("film-tiny*/model")), layout.home.with_name("champion")
    )
    models = load_models(layout, ["film"])
    write_champion(layout, models[0].model_id, elsewhere)
    shutil.rmtree(layout.runs)
    (tables,) = embed(layout, models, executor=StoppingExecutor())
    assert "gallery.parquet" in tables


def test_clap_is_loaded_from_the_files_of_the_settings(layout: DataLayout, tiny_clap: ClapFiles):
    from ml.retrieval.embeddings.clap_audio import ClapAudioModel

    model_id = ClapAudioModel(tiny_clap).model_id
    home = part_jobs.ModelHome(layout=layout, clap=tiny_clap)
    assert part_jobs._load(model_id, home).model_id == model_id
    with pytest.raises(ArtifactError, match="expected clap-audio-0123; put the same files"):
        part_jobs._load("clap-audio-0123", home)


def test_a_worker_without_the_models_says_so(layout: DataLayout) -> None:
    models = load_models(layout, ["film"])
    shutil.rmtree(layout.runs)
    with pytest.raises(ArtifactError, match=r"no checkpoint of the model .*share it with them"):
        embed(layout, models, executor=StoppingExecutor())
