"""Differences between runs, by field."""

from dataclasses import replace

import pytest

from ml.artifacts import ArtifactError
from ml.plain import jsonable
from ml.training.config import changed_config, training_config
from ml.training.run_folder import describe_run, differing_fields, read_run


def test_differences_are_named_as_they_are_set():
    config = training_config("film-nce")
    overrides = {"optimizer.learning_rate": 1e-4, "model.encoder.layers": 5, "objective.eq_db": 3}
    wanted = changed_config(replace(config, seed=4), overrides)
    assert differing_fields(jsonable(config), jsonable(wanted)) == [
        "model.encoder.layers: 3 → 5",
        "objective.eq_db: not set → 3.0",
        "optimizer.learning_rate: 0.0015 → 0.0001",
        "seed: 0 → 4",
    ]
    assert differing_fields(jsonable(config), jsonable(config)) == []


def test_differences_of_identities_are_short():
    one = {"config": {"steps": 3}, "shards": ["a" * 64], "phase_1": None}
    two = {"config": {"steps": 4}, "shards": ["b" * 64, "c" * 64], "phase_1": None}
    assert differing_fields(one, two) == [
        "shards: [aaaaaaaaaaaa] → [bbbbbbbbbbbb, cccccccccccc]",
        "steps: 3 → 4",
    ]


def test_a_description_is_read_back_and_kept_from_another_run(tmp_path):
    identity = {"config": training_config("film"), "shards": ["x"]}
    describe_run(tmp_path / "a", identity, ["demo"], {"phase": "jepa"})
    describe_run(tmp_path / "a", identity, ["demo"], {"phase": "jepa", "more": "b"})
    found = read_run(tmp_path / "a")
    assert found["identity"] == jsonable(identity)
    assert (found["corpora"], found["tags"]["more"]) == (["demo"], "b")
    with pytest.raises(ArtifactError, match=r"another run: shards: \[x\] → \[y\]; remove"):
        describe_run(tmp_path / "a", identity | {"shards": ["y"]}, ["demo"], {})
    with pytest.raises(ArtifactError, match=r"no training run.*runs there: a"):
        read_run(tmp_path / "b")
