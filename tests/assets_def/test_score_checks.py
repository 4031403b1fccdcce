import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets_def.checks import (
    beats_are_above_chance,
    beats_are_not_worse_than_the_champion,
    champion_hears_the_mix,
    mix_is_heard,
)
from assets_def.resources import StemsHome, corpora
from ml import kinds
from ml.artifacts import DataLayout, finish, read_json, write_json
from ml.beats.experiment import EVALUATION
from ml.retrieval.champion.champion import write_champion
from ml.scores.files import write_scores
from ml.training.models import read_models
from pipelines.execute import execute_in_home
from pipelines.home import install_home
from pipelines.jobs import prepare_steps

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
    passed, numbers = found["mix_is_heard"]
    assert passed == (numbers["high"] < 50)
    assert numbers["model"] == "film"
    layout, models = resource.layout, read_models(resource.layout)
    _champion(layout, models["film-nce"])
    passed, numbers = run_checks(resource, job, "retrieval_scores")[NOT_WORSE]
    assert passed == (numbers["high"] >= 0)
    difference = numbers["value"] - numbers["champion"]
    assert numbers["difference"] == pytest.approx(difference, abs=0.2)  # of three digits each
    write_champion(layout, "gone", layout.runs / "gone" / "model")
    passed, numbers = run_checks(resource, job, "retrieval_scores")[NOT_WORSE]
    assert not passed
    assert str(layout.runs / "gone" / "model") in numbers["note"]


def _champion(layout: DataLayout, checkpoint: Path) -> None:
    write_champion(layout, read_json(checkpoint / "manifest.json")["model_id"], checkpoint)


def heard(home: Path, rows: list[dict[str, Any]], model_id: str = "a") -> tuple[bool, str]:
    """The verdict of ``mix_is_heard`` and its sentence on scores of "film" and "contrastive".

    The champion's own page says the same.
    """
    layout = DataLayout(home=home)
    folder = layout.scores("retrieval", "demo")
    folder.mkdir(parents=True, exist_ok=True)
    write_scores(rows, folder)
    finish(folder, {"models": [["film", "a"], ["contrastive", "b"]]}, kinds.SCORES, summary={})
    write_champion(layout, model_id, layout.runs / "some" / "model")

    @dg.asset(name="retrieval_scores", partitions_def=corpora)
    def made() -> None: ...

    @dg.asset(name="champion")
    def chosen() -> None: ...

    resource = StemsHome(home=str(home), overrides={"training": {"presets": ["film"]}})
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("corpus", ["demo"])
        result = dg.materialize(
            [made, mix_is_heard, chosen, champion_hears_the_mix],
            instance=instance,
            partition_key="demo",
            resources={"home": resource},
        )
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    found, on_its_page = checks["mix_is_heard"], checks["champion_hears_the_mix"]
    assert found.severity == on_its_page.severity == dg.AssetCheckSeverity.WARN
    assert found.passed == on_its_page.passed
    assert found.description is not None
    assert found.description.endswith(f": {on_its_page.description}")
    return found.passed, found.description


def test_the_mix_is_heard_where_the_interval_lies_below_chance(tmp_path: Path):
    def row(model: str, high: float, metric: str = "within_label_rank") -> dict[str, Any]:
        header = {"evaluation": "retrieval", "corpus": "demo", "conditioning": "fine"}
        counts = {"n_queries": 60, "n_gallery": 300, "chance": 50.0}
        ends = {"value": 40.0, "low": 30.0, "high": high}
        return {**header, **counts, "model": model, "metric": metric, **ends}

    rows = [row("contrastive", 45.0), row("film", 52.0), row("film", 10.0, "recall@1")]
    assert heard(tmp_path, rows, "b") == (
        True,
        "contrastive: within_label_rank on demo is 40.0 (60 queries), its 95 % interval 30.0…45.0 "
        "lies below 50",
    )
    deaf = (
        False,
        "film: within_label_rank on demo is 40.0 (60 queries), its 95 % interval 30.0…52.0 "
        "reaches 50 (chance): the mix is not heard",
    )
    assert heard(tmp_path, rows, "a") == deaf
    assert heard(tmp_path, rows, "scored no more") == deaf  # film would take its place
    passed, said = heard(tmp_path, [row("film", 10.0, "recall@1")])
    assert passed
    assert "no query of an unseen track is for a stem whose label another stem has" in said
    nan = float("nan")
    passed, said = heard(tmp_path, [row("film", nan) | {"low": nan}])
    assert (passed, "of one track only" in said) == (True, True)


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
