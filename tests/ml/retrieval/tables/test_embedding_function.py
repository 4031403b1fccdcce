"""LanceDB, given a mix, finds in our tables what we find by ear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
import soundfile
from lancedb.embeddings import get_registry

from ml.artifacts import ArtifactError
from ml.cli.main import main
from ml.models.stem_jepa import load_model
from ml.retrieval.query import open_retriever
from ml.retrieval.tables.embedding_function import VARIABLE

RATE_HZ = 16_000


@pytest.fixture
def home(starter: Path, tmp_path: Path) -> Path:
    """A home that has indexed two songs of noise with ``starter``."""
    for seed, song in enumerate(("first", "second")):
        (tmp_path / "songs" / song).mkdir(parents=True)
        for stem in ("bass guitar", "piano"):
            noise = 0.1 * np.random.default_rng([seed, len(stem)]).standard_normal(2 * RATE_HZ)
            soundfile.write(tmp_path / "songs" / song / f"{stem}.wav", noise, RATE_HZ)
    assert main(["--home", str(tmp_path / "home"), "index", str(tmp_path / "songs")]) == 0
    assert load_model(starter).model_id in {x.name for x in (tmp_path / "home/lancedb").iterdir()}
    return tmp_path / "home"


def opened(home: Path, starter: Path) -> Any:
    database = home / "lancedb" / load_model(starter).model_id
    return lancedb.connect(database).open_table("stem_embeddings")


def test_a_mix_and_an_instrument_are_a_query_of_lancedb(
    home: Path, starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("STEMS_HOME", str(home))
    table, mix = opened(home, starter), str(tmp_path / "songs" / "first" / "piano.wav")
    retriever = open_retriever(home)
    for query, instrument in (((mix, "bass guitar"), "bass guitar"), (mix, None)):
        found = table.search(query).limit(4).to_list()
        expected = retriever.query(mix, instrument, k=4, uses_labels=False, variants=True)
        assert [row["key"] for row in found] == [one.key for one in expected]
        cosines = [1 - row["_distance"] / 2 for row in found]  # LanceDB squares distances
        np.testing.assert_allclose(cosines, [one.score for one in expected], atol=1e-5)
    function = table.embedding_functions["vector"].function
    (vector,) = function.compute_source_embeddings([mix])
    row = table.search().where("stem_id = 'first/piano'").to_list()[0]
    np.testing.assert_allclose(vector, row["vector"], atol=1e-5)


def test_elsewhere_the_model_is_named(
    home: Path, starter: Path, untrained_starter: Path, tmp_path: Path, monkeypatch: Any
):
    monkeypatch.setenv("STEMS_HOME", str(tmp_path / "nowhere"))
    mix = str(tmp_path / "songs" / "first" / "piano.wav")
    with pytest.raises(ValueError, match="nowhere"):
        opened(home, starter).search(mix)
    load_model(starter).save_pretrained(tmp_path / "model")
    monkeypatch.setitem(get_registry()._variables, VARIABLE, str(tmp_path / "model"))
    assert len(opened(home, starter).search(mix).limit(4).to_list()) == 4
    other = untrained_starter / "runs" / "random" / "model"
    monkeypatch.setitem(get_registry()._variables, VARIABLE, str(other))
    with pytest.raises(ArtifactError, match=r"the vectors of this table are of .*set_var"):
        opened(home, starter).search(mix)
