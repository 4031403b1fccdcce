from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ml.artifacts import ArtifactError
from ml.corpora.corpus import open_corpus
from ml.corpora.label_embeddings import read_label_vectors
from ml.corpora.table import build_corpus_tracks
from ml.models.stem_jepa import load_model
from ml.retrieval.champion.champion import write_champion
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.queries.retriever import Retrievers, open_retriever
from ml.retrieval.tables.publish import publish_corpus
from ml.settings import Settings, load_settings
from ml.training.models import find_checkpoint

RATE_HZ = 16_000
MIX = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE_HZ, dtype=np.float32)


def publish(settings: Settings, model: str, corpus: str) -> None:
    layout, entry = settings.layout, settings.corpus(corpus)
    build_corpus_tracks(corpus, open_corpus(entry.kind, entry.root), layout)  # the home was copied
    loaded = load_model(find_checkpoint(layout, model))
    embed_corpus(corpus, [loaded], layout, read_label_vectors(layout, corpus), precision="fp32")
    publish_corpus(layout, loaded.model_id, corpus)


def promote(settings: Settings, model: str) -> None:
    checkpoint = find_checkpoint(settings.layout, model)
    write_champion(settings.layout, load_model(checkpoint).model_id, checkpoint)


@pytest.fixture(scope="module")
def published_home(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models with tables of ``demo``, the first one champion; read only."""
    home = shutil.copytree(shared_home, tmp_path_factory.mktemp("published") / "home")
    settings = load_settings(home)
    for model in ("film", "contrastive"):
        publish(settings, model, "demo")
    promote(settings, "film")
    return home


@pytest.fixture
def settings(published_home: Path, tmp_path: Path) -> Settings:
    return load_settings(shutil.copytree(published_home, tmp_path / "own"))


def test_what_is_loaded_is_used_again(settings: Settings) -> None:
    retrievers = Retrievers(settings)
    first = retrievers.current()
    assert first.model.name == "film"
    assert retrievers.current() is first
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: retrievers.current().query(MIX, "bass", k=3), range(8)))
    assert found == [first.query(MIX, "bass", k=3)] * 8


def test_a_promotion_is_seen_by_the_next_query(settings: Settings) -> None:
    retrievers = Retrievers(settings)
    before = retrievers.current()
    asked = before.query(MIX, "bass", k=3)
    promote(settings, "contrastive")
    after = retrievers.current()
    assert (before.model.name, after.model.name) == ("film", "contrastive")
    assert after is retrievers.current()
    assert before.query(MIX, "bass", k=3) == asked
    named = Retrievers(settings, "film")
    assert named.current().model.name == "film"


def test_a_publication_is_seen_by_the_next_query(settings: Settings) -> None:
    retrievers = Retrievers(settings)
    before = retrievers.current()
    assert {c.corpus for c in before.query(MIX, k=len(before.tables))} == {"demo"}
    publish(settings, "film", "demo-plain")
    after = retrievers.current()
    assert after.model is before.model
    assert {c.corpus for c in after.query(MIX, k=len(after.tables))} == {"demo", "demo-plain"}
    assert {c.corpus for c in before.query(MIX, k=len(before.tables))} == {"demo"}


def test_all_three_kinds_of_query(settings: Settings) -> None:
    retriever = open_retriever(settings)
    (found,) = retriever.query(MIX, "bass", k=1)
    assert found.mix_start_s == 0.0
    (like,) = retriever.query_by_stem(found.key, 1)
    assert like.key != found.key
    (named,) = retriever.query_by_text(found.label, 1)
    assert (named.label, named.score) == (found.label, pytest.approx(1, abs=1e-5))


def test_a_model_without_instruments_searches_by_text(settings: Settings) -> None:
    retriever = open_retriever(settings, "contrastive")
    assert not retriever.takes_instrument
    (found,) = retriever.query_by_text("lead vocals", 1)
    assert found.label == "lead vocals" or found.category == "vocals"


@pytest.mark.usefixtures("no_starter")
def test_what_is_missing_is_said(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="stems embed"):
        open_retriever(settings, "film-nce")
    with pytest.raises(ArtifactError, match="no model was promoted"):
        Retrievers(load_settings(tmp_path / "new")).current()
    layout = settings.layout
    film, other = (
        layout.lancedb / load_model(find_checkpoint(layout, m)).model_id
        for m in ("film", "contrastive")
    )
    retrievers = Retrievers(settings)
    kept = retrievers.current()
    shutil.rmtree(film)
    other.rename(film)
    with pytest.raises(ArtifactError, match="holds vectors of model"):
        open_retriever(settings)
    assert kept.model.name == "film"
