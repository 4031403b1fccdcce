import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets_def.checks.score_checks import (
    beats_are_above_chance,
    beats_are_not_worse_than_the_champion,
)
from assets_def.resources import StemsHome
from ml import kinds
from ml.artifacts import DataLayout, finish, read_json, write_json
from ml.beats.experiment import EVALUATION
from ml.retrieval.champion.champion import write_champion
from ml.scores.files import write_scores
from ml.training.models import read_models
from pipelines.execute import execute_in_home
from pipelines.home import install_home
from pipelines.steps import prepare_steps

ABOVE, NOT_WORSE = "retrieval_is_above_chance", "retrieval_is_not_worse_than_the_champion"


@pytest.fixture
def resource(home: Path) -> StemsHome:
    """The corpus "demo" embedded with a candidate "film", which the settings would promote."""
    chosen = {
        "training": {"presets": ["film"]},
        "evaluation": {"bootstrap_resamples": 100},
        "corpora": {"demo": {"kind": "demo", "root": "corpora/demo"}},
    }
    resource = StemsHome(home=str(home), overrides=chosen, workers=1)
    install_home(resource.settings())
    assert execute_in_home(resource, prepare_steps(["demo"], trained_on=[]))[0].status == "done"
    return resource


def test_retrieval_is_compared_with_chance_and_the_champion(resource: StemsHome, run_checks: Any):
    """Models of four steps: the verdicts are not looked at, what they are made of is."""
    job = "evaluate_retrieval"
    run_checks(resource, job, "stem_embeddings")
    found = run_checks(resource, job, "retrieval_scores")
    assert found[ABOVE][1]["chance"] > 0
    assert found[ABOVE][0] == (found[ABOVE][1]["low"] > found[ABOVE][1]["chance"])
    assert found[NOT_WORSE] == (True, {"note": "there is no other champion"})
    layout, models = resource.layout, read_models(resource.layout)
    _champion(layout, models["film-nce"])
    passed, numbers = run_checks(resource, job, "retrieval_scores")[NOT_WORSE]
    assert passed == (numbers["high"] >= 0)
    assert numbers["difference"] == pytest.approx(numbers["value"] - numbers["champion"])
    write_champion(layout, "gone", layout.runs / "gone" / "model")
    passed, numbers = run_checks(resource, job, "retrieval_scores")[NOT_WORSE]
    assert not passed
    assert str(layout.runs / "gone" / "model") in numbers["note"]


def _champion(layout: DataLayout, checkpoint: Path) -> None:
    write_champion(layout, read_json(checkpoint / "manifest.json")["model_id"], checkpoint)


def write_beats(layout: DataLayout, value: float, low: float, chance: float) -> None:
    """The F-measure of the model "film", as ``beat_scores`` writes it."""
    folder = layout.scores(EVALUATION, "demo")
    folder.mkdir(parents=True, exist_ok=True)
    row = {"evaluation": EVALUATION, "corpus": "demo", "model": "film", "metric": "f_measure"}
    row |= {"conditioning": "all tracks", "n_queries": 60, "n_gallery": 0}
    write_scores([{**row, "value": value, "low": low, "high": 100.0, "chance": chance}], folder)
    finish(folder, {"value": value}, kinds.SCORES, summary={})


@pytest.fixture
def beats(shared_home: Path, tmp_path: Path) -> StemsHome:
    """A home with models and no scores."""
    for name in ("runs", "labels"):
        shutil.copytree(shared_home / name, tmp_path / "home" / name)
    return StemsHome(home=str(tmp_path / "home"), overrides={"training": {"presets": ["film"]}})


def check(resource: StemsHome, instance: dg.DagsterInstance) -> dict[str, tuple[bool, Any]]:
    """The checks of beats alone; the scores are there."""

    @dg.asset(name="beat_scores")
    def made() -> None: ...

    result = dg.materialize(
        [made, beats_are_above_chance, beats_are_not_worse_than_the_champion],
        instance=instance,
        resources={"home": resource},
    )
    found = result.get_asset_check_evaluations()
    return {
        x.check_name: (x.passed, {key: value.value for key, value in x.metadata.items()})
        for x in found
    }


def test_beats_are_compared_with_chance_and_what_the_champion_had(beats: StemsHome):
    layout, models = beats.layout, read_models(beats.layout)
    with dg.DagsterInstance.ephemeral() as instance:
        write_beats(layout, 80.0, 75.0, chance=27.0)
        found = check(beats, instance)
        assert {passed for passed, _ in found.values()} == {True}
        _champion(layout, models["film"])
        new = layout.runs / "newer" / "model"
        new.parent.mkdir()
        _retrained(layout, models["film"], new)
        for value, low, verdicts in ((76.0, 70.0, (True, True)), (74.0, 20.0, (False, False))):
            write_beats(layout, value, low, chance=27.0)
            found = check(beats, instance)
            assert tuple(found[name][0] for name in sorted(found)) == verdicts
        numbers = found["beats_are_not_worse_than_the_champion"][1]
        assert numbers["champion/demo/low"] == 75.0
        assert numbers["demo/value"] == 74.0


def _retrained(layout: DataLayout, old: Path, new: Path) -> None:
    """Another model under the name "film"."""
    shutil.copytree(old, new)
    write_json(new / "manifest.json", read_json(new / "manifest.json") | {"model_id": "newer"})
    index = read_json(layout.models_index)
    write_json(layout.models_index, index | {"film": "runs/newer/model"})
