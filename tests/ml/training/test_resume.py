"""Going on with a run by its folder."""

import pytest

from ml.artifacts import ArtifactError, DataLayout, read_json, write_json
from ml.training.config import LoopConfig
from ml.training.loop import TrainState
from ml.training.models import read_models
from ml.training.runs import resume_run, train_preset

LOOP = LoopConfig(checkpoint_every=2, log_every=1)


class _KilledError(Exception):
    pass


@pytest.fixture
def stopped(home, small_jepa, monkeypatch):
    """The layout and the name of a run of film-nce that was killed after step 3 of 6."""
    import ml.training.loop as loop_module

    layout, real_step = DataLayout(home=home), loop_module.train_step

    def dying_step(state: TrainState, *args):
        if state.step == 3:
            raise _KilledError
        return real_step(state, *args)

    monkeypatch.setattr(loop_module, "train_step", dying_step)
    with pytest.raises(_KilledError):
        train_preset(
            "film-nce",
            layout=layout,
            corpora=["demo"],
            overrides=small_jepa,
            seed=31,
            start="contrastive",
            loop=LOOP,
        )
    monkeypatch.setattr(loop_module, "train_step", real_step)
    (checkpoints,) = home.glob("runs/*/checkpoints")
    return layout, checkpoints.parent.name


def test_a_run_goes_on_whatever_the_current_phase_1_is(stopped, small):
    layout, name = stopped
    before = read_models(layout)["contrastive"]
    train_preset("contrastive", layout=layout, corpora=["demo"], overrides=small, seed=32)
    assert read_models(layout)["contrastive"] != before
    artifact = resume_run(name, layout=layout, corpora=["nothing"], loop=LOOP)
    assert artifact.path == layout.runs / name / "model"
    assert artifact.summary["step"] == 6
    assert (
        read_json(artifact.path / "manifest.json")["phase_1_model_id"]
        == (read_json(before / "manifest.json")["model_id"])
    )
    assert read_models(layout)["film-nce"] == artifact.path
    assert resume_run(name, layout=layout, corpora=[]).reused


def test_an_older_folder_that_names_no_corpora_takes_those_of_the_settings(stopped):
    layout, name = stopped
    path = layout.runs / name / "run.json"
    write_json(path, {"identity": read_json(path)["identity"]})
    assert resume_run(name, layout=layout, corpora=["demo"], loop=LOOP).summary["step"] == 6


@pytest.mark.parametrize(
    ("options", "overrides", "fields"),
    [
        ({"seed": 32}, {}, "seed: 31 → 32"),
        ({"preset": "film"}, {}, "preset: film-nce → film"),
        ({"size": "small"}, {}, "size: tiny → small"),
        ({"corpora": ["other"]}, {}, r"corpora: \[demo\] → \[other\]"),
        (
            {},
            {"optimizer.learning_rate": 0.5, "objective.eq_db": 3.0},
            "objective.eq_db: not set → 3.0; optimizer.learning_rate: 0.001 → 0.5",
        ),
    ],
)
def test_options_that_differ_are_refused_by_name(stopped, options, overrides, fields):
    layout, name = stopped
    with pytest.raises(ArtifactError, match=f"cannot go on with: {fields}; leave"):
        resume_run(name, layout=layout, corpora=["demo"], options=options, overrides=overrides)


def test_options_that_agree_change_nothing(stopped):
    layout, name = stopped
    artifact = resume_run(
        name,
        layout=layout,
        corpora=["demo"],
        options={"preset": "film-nce", "seed": 31, "corpora": ["demo"]},
        overrides={"optimizer.learning_rate": 1e-3},
        loop=LOOP,
    )
    assert artifact.summary["step"] == 6


def test_other_shards_and_a_lost_phase_1_are_named(stopped):
    layout, name = stopped
    path = layout.runs / name / "run.json"
    described = read_json(path)
    write_json(path, described | {"identity": described["identity"] | {"shards": ["0" * 64]}})
    with pytest.raises(ArtifactError, match=r"cannot go on with: shards: \[000000000000\] → "):
        resume_run(name, layout=layout, corpora=["demo"])
    write_json(path, described | {"identity": described["identity"] | {"phase_1": "abc"}})
    with pytest.raises(ArtifactError, match="the model abc that this run or its phase 1"):
        resume_run(name, layout=layout, corpora=["demo"])
