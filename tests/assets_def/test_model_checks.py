from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets_def.checks import _losses_are_finite, _spread
from assets_def.resources import StemsHome
from ml.artifacts import read_json, write_json
from ml.parquet import read_table, write_table
from ml.retrieval.embeddings.files import GALLERY, vector_column
from ml.training.models import read_models

COLLAPSED, COMPLETE = "embeddings_are_not_collapsed", "gallery_is_complete"


def test_one_point_has_collapsed():
    cosine, rank = _spread(np.tile([[0.6, 0.8]], (5, 1)))
    assert cosine == pytest.approx(1.0)
    assert rank == pytest.approx(1.0)


def test_orthogonal_vectors_have_not():
    cosine, rank = _spread(np.eye(7))
    assert cosine == pytest.approx(0.0)
    assert rank == pytest.approx(7.0)


def test_mean_cosine_is_that_of_all_pairs():
    vectors = np.random.default_rng(0).normal(size=(20, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (vectors @ vectors.T)[np.triu_indices(20, 1)]
    assert _spread(vectors)[0] == pytest.approx(cosines.mean())


def test_finite_losses_pass(shared_home: Path):
    home = StemsHome(home=str(shared_home))
    assert _losses_are_finite(home, ["contrastive"]).passed
    result = _losses_are_finite(home, ["film", "film-nce"])
    assert result.passed
    assert {"film/jepa/loss", "film-nce/jepa/loss"} <= result.metadata.keys()


def test_a_loss_that_is_not_finite_fails(home: Path):
    resource = StemsHome(home=str(home))
    record = read_models(resource.layout)["film"].parent / "metrics.jsonl"
    with record.open("a") as file:
        file.write('{"step": 99, "time": 0.0, "metrics": {"jepa/loss": NaN}}\n')
    result = _losses_are_finite(resource, ["film"])
    assert not result.passed
    assert result.metadata["film/jepa/loss"].value == "nan"
    assert _losses_are_finite(resource, ["film-nce"]).passed


@pytest.fixture
def resource(home: Path) -> StemsHome:
    """A home in which the corpus "demo" can be embedded."""
    from ml.corpora.corpus import open_corpus
    from ml.corpora.table import build_corpus_tracks

    resource = StemsHome(home=str(home), workers=1)
    build_corpus_tracks("demo", open_corpus("demo", home / "corpora" / "demo"), resource.layout)
    return resource


def test_a_model_that_embeds_everything_alike_stops_the_run(resource: StemsHome, run_checks: Any):
    # Models of four steps are next to collapsed; only the numbers are looked at before.
    _, numbers = run_checks(resource, "embed_corpus", "stem_embeddings")[COLLAPSED]
    assert numbers["film/effective_rank"] > 1
    path = resource.layout.embeddings(film(resource), "demo") / GALLERY
    gallery = read_table(path)
    vectors = np.ones((gallery.num_rows, 4), dtype=np.float32) / 2
    place = gallery.column_names.index("vector")
    write_table(gallery.set_column(place, "vector", vector_column(vectors)), path)
    passed, numbers = run_checks(resource, "embed_corpus", "stem_embeddings")[COLLAPSED]
    assert not passed
    assert numbers["film/mean_cosine"] == pytest.approx(1.0)
    assert numbers["film/effective_rank"] == pytest.approx(1.0)


def test_tables_that_hold_less_than_was_embedded_stop_the_run(resource: StemsHome, run_checks: Any):
    passed, numbers = run_checks(resource, "embed_corpus", "stem_embeddings")[COMPLETE]
    assert passed
    assert numbers["gaps"] == 0
    assert numbers["film/stems"] > 0
    assert "untrained/stems" not in numbers
    path = resource.layout.embeddings(film(resource), "demo") / "manifest.json"
    manifest = read_json(path)
    manifest["summary"]["gallery"] += 1  # as if one were lost on the way
    write_json(path, manifest)
    passed, numbers = run_checks(resource, "embed_corpus", "stem_embeddings")[COMPLETE]
    assert (passed, numbers["gaps"]) == (False, 1)
    assert "film: stem_embeddings holds" in numbers["first_gap"]


def film(resource: StemsHome) -> str:
    return read_json(read_models(resource.layout)["film"] / "manifest.json")["model_id"]
