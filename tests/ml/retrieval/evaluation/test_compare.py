from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.artifacts import ArtifactError, DataLayout, read_json, write_json
from ml.metrics import RETRIEVAL
from ml.mlflow_store import find_or_make_experiment, mlflow_client
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.evaluation.compare import ComparisonConfig, compare_models, config_difference
from ml.retrieval.evaluation.evaluate import evaluate_retrieval
from ml.scores.files import read_scores
from ml.training.models import FoundModel, embedded_corpora, find_model

CONFIG = ComparisonConfig(resamples=200, permutations=500)
NO_STORE = "sqlite:////nonexistent/mlflow.db"
GOOD = FoundModel(name="good", model_id="id-good")
BAD = FoundModel(name="bad", model_id="id-bad")


@pytest.fixture
def embedded(
    write_songs: Any,
    band_model: Any,
    layout: DataLayout,
    label_vectors: dict[str, np.ndarray],
) -> DataLayout:
    """Ten songs of a bass (band 0) and a guitar (band 2); "good" knows where conditions lie."""
    write_songs(10, bass=0, guitar=2)
    good = band_model("good", phase="jepa", condition_weight=1e5)
    embed_corpus("songs", [good, band_model("bad")], layout, label_vectors)
    return layout


def test_differences_are_those_of_the_paired_scores(embedded: DataLayout):
    found = compare_models(embedded, GOOD, BAD, config=CONFIG)
    [corpus] = found.corpora
    assert (corpus.corpus, corpus.n_queries, corpus.n_gallery, corpus.n_seen) == (
        "songs",
        20,
        20,
        0,
    )
    assert [row.metric for row in corpus.metrics] == list(RETRIEVAL)
    evaluate_retrieval("songs", embedded, {"good": "id-good", "bad": "id-bad"}, resamples=200)
    scores = {
        (row["model"], row["metric"]): row
        for row in read_scores(embedded)
        if row["evaluation"] == "retrieval"
    }
    for row in corpus.metrics:
        assert row.a == pytest.approx(scores["good", row.metric]["value"])
        assert row.b == pytest.approx(scores["bad", row.metric]["value"])
        assert row.difference.value == pytest.approx(row.a - row.b)
        assert row.difference.low <= row.difference.value <= row.difference.high
    by_metric = {row.metric: row for row in corpus.metrics}
    assert (by_metric["recall@1"].a, by_metric["recall@1"].b) == (100, 0)
    # ten songs, all better: of 2^10 exchanges, which are more than 500, next to none is as good
    assert by_metric["recall@1"].p == pytest.approx(1 / 501, abs=0.004)
    assert set(corpus.instruments) == {"bass", "guitar"}
    for rows in corpus.instruments.values():
        assert [row.n_queries for row in rows] == [10, 10, 10]
        assert rows[0].difference.value == 100
        assert rows[0].p is None


def test_exchanging_the_models_turns_the_signs(embedded: DataLayout):
    one = compare_models(embedded, GOOD, BAD, config=CONFIG).corpora[0]
    other = compare_models(embedded, BAD, GOOD, config=CONFIG).corpora[0]
    for a, b in zip(one.metrics, other.metrics, strict=True):
        assert a.difference.value == pytest.approx(-b.difference.value)
        assert (a.difference.low, a.difference.high) == pytest.approx(
            (-b.difference.high, -b.difference.low)
        )
        assert a.p == b.p


def test_tracks_that_either_has_seen_are_left_out(embedded: DataLayout):
    seen = {"training_tracks": [{"corpus": "songs", "track_id": "song3"}]}
    trained = FoundModel(name="good", model_id="id-good", manifest=seen)
    corpus = compare_models(embedded, trained, BAD, config=CONFIG).corpora[0]
    assert (corpus.n_queries, corpus.n_seen) == (18, 2)
    everything = [{"corpus": "songs", "track_id": f"song{i}"} for i in range(10)]
    trained = FoundModel(name="good", model_id="id-good", manifest={"training_tracks": everything})
    with pytest.raises(ArtifactError, match="trained on every track of songs"):
        compare_models(embedded, trained, BAD, config=CONFIG)


def test_what_cannot_be_compared_is_named(
    embedded: DataLayout, write_corpus: Any, make_sine: Any, band_model: Any
):
    with pytest.raises(ArtifactError, match=r"both are the model good \(id-good\)"):
        compare_models(embedded, GOOD, GOOD, config=CONFIG)
    stems = {"x": ("bass", make_sine(2, 1.0)), "y": ("drums", make_sine(5, 1.0))}
    write_corpus("more", {"a": stems})
    embed_corpus("more", [band_model("lonely")], embedded, {})
    lonely = FoundModel(name="lonely", model_id="id-lonely")
    with pytest.raises(
        ArtifactError, match=r"share no corpus.*good has embedded songs; lonely has"
    ):
        compare_models(embedded, GOOD, lonely, config=CONFIG)
    with pytest.raises(ArtifactError, match=r"more was not embedded by both.*stems embed more"):
        compare_models(embedded, GOOD, BAD, corpora=["songs", "more"], config=CONFIG)
    coarse = ComparisonConfig(conditioning="coarse")
    with pytest.raises(ArtifactError, match=r"good has embedded no corpus.*--conditioning coarse"):
        compare_models(embedded, GOOD, BAD, config=coarse)
    with pytest.raises(ValueError, match="permutations=0"):
        ComparisonConfig(permutations=0)


def test_models_of_one_name_are_told_apart(embedded: DataLayout):
    other = FoundModel(name="good", model_id="id-bad")
    found = compare_models(embedded, GOOD, other, config=CONFIG)
    assert (found.a.name, found.b.name) == ("good id-good", "good id-bad")


def test_configurations_are_compared_by_dotted_key():
    a = {"steps": 4, "model": {"dim": 32, "heads": 2}, "same": [1, 2]}
    b = {"steps": 4, "model": {"dim": 64, "heads": 2}, "same": [1, 2], "more": {"x": None, "y": 0}}
    assert config_difference(a, b) == {"model.dim": (32, 64), "more.y": (None, 0)}
    assert config_difference(a, a) == {}


def test_a_model_is_found_by_whatever_names_it(home: Path):
    layout = DataLayout(home=home)
    index = read_json(layout.models_index)
    folder = layout.home / index["film"]
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", manifest | {"mlflow_run_id": "0" * 32})
    names = ("film", str(folder), str(folder.parent), folder.parent.name, manifest["model_id"])
    for text in (*names, "0" * 32):
        found = find_model(layout, text, NO_STORE)
        assert (found.name, found.model_id) == ("film", manifest["model_id"])
        assert found.mlflow_run_id == "0" * 32
        assert found.config["preset"] == "film"
    with pytest.raises(ArtifactError, match=r"'flim' is no model here .*film-nce"):
        find_model(layout, "flim", NO_STORE)
    assert embedded_corpora(layout, find_model(layout, "film", NO_STORE), "fine") == []


def test_what_has_embeddings_only_is_found_by_name_and_id(embedded: DataLayout):
    for text in ("bad", "id-bad"):
        found = find_model(embedded, text, NO_STORE)
        assert (found.name, found.model_id, found.checkpoint) == ("bad", "id-bad", None)
        assert embedded_corpora(embedded, found, "fine") == ["songs"]


def test_runs_and_registered_versions_are_asked_of_mlflow(home: Path):
    layout, uri = DataLayout(home=home), f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"
    folder = layout.home / read_json(layout.models_index)["film"]
    model_id = read_json(folder / "manifest.json")["model_id"]
    client = mlflow_client(uri)
    experiment = find_or_make_experiment(client, "stems")
    run = client.create_run(experiment, tags={"training_id": folder.parent.name})
    strange = client.create_run(experiment, tags={"training_id": "elsewhere"})
    client.create_registered_model("stem-jepa")
    version = client.create_model_version(
        "stem-jepa", source="file:///x", run_id=strange.info.run_id, tags={"model_id": model_id}
    )
    client.set_registered_model_alias("stem-jepa", "champion", version.version)
    client.create_model_version("stem-jepa", source="file:///x", run_id=strange.info.run_id)
    for text in (run.info.run_id, "models:/stem-jepa@champion", "models:/stem-jepa/1"):
        assert find_model(layout, text, uri).model_id == model_id
    with pytest.raises(ArtifactError, match=f"run {strange.info.run_id} trained elsewhere"):
        find_model(layout, strange.info.run_id, uri)
    with pytest.raises(ArtifactError, match="is version 2, trained by run"):
        find_model(layout, "models:/stem-jepa/2", uri)
    with pytest.raises(ArtifactError, match="does not know it"):
        find_model(layout, "models:/stem-jepa@nobody", uri)
    with pytest.raises(ArtifactError, match="expected models:/name@alias"):
        find_model(layout, "models:/stem-jepa", uri)
    with pytest.raises(ArtifactError, match="does not know it"):
        find_model(layout, "f" * 32, uri)
