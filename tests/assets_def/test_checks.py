from pathlib import Path

import numpy as np
import pytest
import soundfile

from assets_def.checks import (
    _losses_are_finite,
    _spread,
)
from assets_def.resources import StemsHome
from ml.training.model_index import read_models
from pipelines.home import install_home
from pipelines.steps import execute_in_home, prepare_step

RATE_HZ = 16000


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


def test_a_recording_in_two_splits_stops_the_run(tmp_path: Path):
    """The same audio under another name in another split: leakage that ids do not show."""
    rng = np.random.default_rng(0)
    rows = ["track_id,audio,labels,split"]
    for track, split in (("one", "train"), ("two", "train"), ("one-again", "test")):
        for label in ("piano", "drums"):
            source = track.removesuffix("-again")
            path = tmp_path / f"{source}-{label}.wav"
            if not path.exists():
                soundfile.write(path, rng.uniform(-0.3, 0.3, 9 * RATE_HZ), RATE_HZ)
            rows.append(f"{track},{path.name},{label},{split}")
    (tmp_path / "corpus.csv").write_text("\n".join(rows) + "\n")
    mine = {"mine": {"kind": "manifest", "root": str(tmp_path / "corpus.csv")}}
    home = StemsHome(home=str(tmp_path / "home"), overrides={"corpora": mine}, workers=1)
    install_home(home.settings())
    (outcome,) = execute_in_home(home, [prepare_step("mine", has_shards=True)])
    assert outcome.status == "failed"
    assert "no_track_in_two_splits" in outcome.problem
