"""Runs: exact resume, reuse, identity, what a checkpoint remembers."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ml.artifacts import ArtifactError, DataLayout, read_json, write_json
from ml.labels.encoders import build_label_encoder
from ml.locks import LockedError, lock
from ml.models.stem_jepa import load_model
from ml.settings import TrainingSettings
from ml.shards.reader import ShardPairs
from ml.training.config import LoopConfig, training_config
from ml.training.execution import measure_statistics
from ml.training.loop import NonFiniteLossError, build_state, train
from ml.training.models import read_models
from ml.training.runs import open_run, resume_run, run_options, train_preset, trained_model

CPU = torch.device("cpu")


def weights(folder: Path):
    return load_file(folder / "model.safetensors")


def assert_equal_weights(one: Path, two: Path):
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


class _KilledError(Exception):
    pass


def test_overrides_of_both_phases_leave_to_phase_2_what_phase_1_cannot_have():
    of_both = {"steps": 3, "objective.ema_start": 0.9}
    of_phase_2 = {"model.predictor.hidden": 32, "model.song_share": 0.5}
    training = TrainingSettings(overrides=of_both | of_phase_2)
    assert run_options(training, "contrastive").get("overrides") == of_both
    assert run_options(training, "two-part").get("overrides") == of_both | of_phase_2
    training_config("contrastive", overrides=of_both)
    wrong = TrainingSettings(overrides={"model.predictor.hiden": 32})
    with pytest.raises(ValueError, match="did you mean 'hidden'"):
        run_options(wrong, "contrastive")


LEADS = {
    "model.target_norm": "centre-scale",
    "model.is_context_centred": True,
    "model.predictor.is_residual": True,
    "model.predictor.is_condition_centred": True,
    "optimizer.encoder_frozen_share": 0.5,
    "objective.pooled_weight": 0.5,
    "objective.eq_db": 6.0,
    "objective.condition_noise": 0.3,
    "pairs.music_share": 0.2,
    "pairs.hard_negatives": 2,
}
"""Everything that is off in ``paper`` and has state, randomness or data of its own."""


@pytest.mark.parametrize(
    ("preset", "leads"), [("contrastive", {}), ("film-nce", {}), ("film-nce", LEADS)]
)
def test_a_run_killed_between_checkpoints_resumes_to_the_same_bits(
    home, preset, leads, monkeypatch, small, small_jepa
):
    layout = DataLayout(home=home)
    overrides = small if preset == "contrastive" else small_jepa | leads
    is_beside = preset != "contrastive"  # both ways
    loop = LoopConfig(checkpoint_every=2, log_every=1, is_saving_beside=is_beside)

    def run(seed_offset=0):
        return train_preset(
            preset,
            layout=layout,
            corpora=["demo"],
            overrides=overrides,
            loop=loop,
            seed=1 + seed_offset,
            start=None if preset == "contrastive" else "contrastive",
        )

    straight = run().path
    kept = straight.rename(home / "straight")
    _remove(straight.parent)

    import ml.training.loop as loop_module

    real_step, done = loop_module.train_step, itertools.count()

    def dying_step(*args):
        if next(done) == 3:  # after step 3: a checkpoint of step 2 is there, step 3 is lost
            raise _KilledError
        return real_step(*args)

    monkeypatch.setattr(loop_module, "train_step", dying_step)
    with pytest.raises(_KilledError):
        run()
    monkeypatch.setattr(loop_module, "train_step", real_step)
    resumed = run()
    assert not resumed.reused
    assert_equal_weights(resumed.path, kept)
    steps = [json.loads(x)["step"] for x in _record(resumed.path).splitlines()]
    assert [s for s, _ in itertools.groupby(steps)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.faults
def test_a_process_killed_with_sigkill_resumes_to_the_same_bits(home, small):
    layout = DataLayout(home=home)
    overrides = small | {"steps": 30}

    def run():
        loop = LoopConfig(checkpoint_every=3, log_every=1)
        options = {"corpora": ["demo"], "overrides": overrides, "seed": 5, "loop": loop}
        return train_preset("contrastive", layout=layout, **options).path

    program = (
        "from pathlib import Path\n"
        "from ml.artifacts import DataLayout\n"
        "from ml.training.config import LoopConfig\n"
        "from ml.training.runs import train_preset\n"
        f"train_preset('contrastive', layout=DataLayout(home=Path({str(home)!r})),\n"
        f"  corpora=['demo'], overrides={overrides!r}, seed=5,\n"
        "  loop=LoopConfig(checkpoint_every=3, log_every=1))\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", program], env=environment)
    deadline = time.monotonic() + 240  # bounds a hang
    while not list(home.glob("runs/*/checkpoints/step-0000006")):
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    killed = next(iter(home.glob("runs/*/checkpoints"))).parent
    assert not (killed / "model").exists()
    resumed = run().rename(home / "resumed")
    _remove(killed)
    assert_equal_weights(resumed, run())
    assert layout.models_index.is_file()


def test_a_finished_run_is_reused_and_another_seed_is_another_run(home, small):
    layout = DataLayout(home=home)

    def run(seed):
        return train_preset(
            "contrastive", layout=layout, corpora=["demo"], overrides=small, seed=seed
        )

    first = run(7)
    left = first.path.with_name("checkpoints")  # by a run that was killed right behind its model
    (left / "step-0000006").mkdir(parents=True)
    again, other = run(7), run(8)
    assert not left.exists()
    assert (first.reused, again.reused, other.reused) == (False, True, False)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert read_models(layout)["contrastive"] == other.path

    def trained(seed):
        return trained_model(
            "contrastive", layout=layout, corpora=["demo"], overrides=small, seed=seed
        )

    assert trained(9) is None
    assert trained(7) == again
    assert read_models(layout)["contrastive"] == first.path


def test_a_run_that_another_process_trains_is_refused(home, small):
    def run():
        return train_preset(
            "contrastive", layout=DataLayout(home=home), corpora=["demo"], overrides=small, seed=9
        )

    folder = run().path.parent
    with (
        lock(folder / ".lock"),
        pytest.raises(LockedError, match=f"{folder} is being written by process {os.getpid()}"),
    ):
        run()


def test_a_checkpoint_remembers_what_it_was_trained_on(shared_home):
    models = read_models(DataLayout(home=shared_home))
    assert list(models) == ["untrained", "contrastive", "film", "film-nce"]
    phase_1, model = load_model(models["contrastive"]), load_model(models["film-nce"])
    assert model.phase == "jepa"
    assert model.manifest["phase_1_model_id"] == phase_1.model_id
    tracks = model.manifest["training_tracks"]
    assert {t["corpus"] for t in tracks} == {"demo"}
    assert all(t["track_id"].startswith("train-") for t in tracks)
    assert all(len(h) == 64 for t in tracks for h in t["content_hash"])
    assert "drums" in model.manifest["training_labels"]
    assert model.label_encoder["name"] == "minilm"


def test_phase_2_starts_from_phase_1(home, small_jepa):
    layout = DataLayout(home=home)
    overrides = small_jepa | {"optimizer.learning_rate": 1e-9, "steps": 1}
    artifact = train_film(layout, overrides)
    started, phase_1 = weights(artifact.path), weights(read_models(layout)["contrastive"])
    for name in phase_1:
        if name.startswith(("encoder.", "log_mel.")):
            torch.testing.assert_close(started[name], phase_1[name], atol=1e-6, rtol=1e-4)


def test_conditions_are_centred_by_the_mean_of_the_training_labels(home, small_jepa):
    layout = DataLayout(home=home)
    centred = {"model.predictor.is_condition_centred": True, "steps": 1}
    artifact = train_film(layout, small_jepa | centred)
    model = load_model(artifact.path)
    assert model.predictor is not None
    labels = [*model.manifest["training_labels"], "music"]
    vectors = build_label_encoder("minilm").encode(labels)
    torch.testing.assert_close(
        model.predictor.condition_mean, torch.from_numpy(vectors).mean(0), atol=1e-3, rtol=0
    )


def train_film(layout: DataLayout, overrides):
    """Train phase 2 from the current phase 1, whose length and rate are others."""
    return train_preset(
        "film", layout=layout, corpora=["demo"], overrides=overrides, start="contrastive"
    )


def test_phase_2_starts_from_the_phase_1_of_its_options_and_refuses_any_other(home, small):
    layout = DataLayout(home=home)
    made = {
        seed: train_preset(
            "contrastive", layout=layout, corpora=["demo"], overrides=small, seed=seed
        ).path
        for seed in (7, 8)
    }

    def phase_1_of(seed, start=None, **more):
        overrides = small | {"model.predictor.dim": 32, "objective.nce_weight": 0.1} | more
        return open_run(
            "film", layout=layout, corpora=["demo"], overrides=overrides, seed=seed, start=start
        ).phase_1

    assert read_models(layout)["contrastive"] == made[8]
    assert {seed: phase_1_of(seed) for seed in made} == made
    assert phase_1_of(9, start=made[7].parent.name) == made[7]
    with pytest.raises(ArtifactError) as refused:
        phase_1_of(8, steps=5)
    run = made[8].parent.name
    assert f"{run} is nearest: steps: 6 → 5; train it first: stems train --preset contrastive" in (
        sentence := str(refused.value)
    )
    assert "--seed 8 --corpora demo --set steps=5 batch_size=4" in sentence
    assert "predictor" not in sentence
    assert sentence.endswith(f"--from {run}")


def test_phase_2_without_phase_1_says_what_to_do(home, small_jepa):
    layout = DataLayout(home=home)
    _remove(layout.runs)
    with pytest.raises(ArtifactError, match="train it first: stems train --preset contrastive"):
        train_preset("film", layout=layout, corpora=["demo"], overrides=small_jepa)


def test_phase_2_of_another_shape_than_phase_1_is_refused(home, small_jepa):
    layout = DataLayout(home=home)
    overrides = small_jepa | {"model.encoder.dim": 64, "model.predictor.dim": 64}
    with pytest.raises(ArtifactError, match="at the same size"):
        train_film(layout, overrides)


@pytest.mark.parametrize("preset", ["contrastive", "film", "film-nce"])
def test_the_model_overfits_one_batch(shared_home, preset, small, small_jepa):
    config = training_config(
        preset,
        overrides=(small if preset == "contrastive" else small_jepa)
        | {"steps": 150, "optimizer.warmup_steps": 5, "precision": "fp32"}
        | {"optimizer.learning_rate": 3e-3, "optimizer.encoder_rate": 1.0},
    )
    state, batch = _state_and_batch(shared_home, config)
    losses = []
    train(
        state,
        itertools.repeat(batch),
        loop=LoopConfig(log_every=1, checkpoint_every=10**9),
        device=CPU,
        log=lambda _, metrics: losses.append(metrics[f"{state.model.phase}/loss"]),
        save=lambda _: None,
    )
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_non_finite_loss_or_gradient_stops_before_it_reaches_the_weights(
    shared_home, small, kind, caplog
):
    config = training_config("contrastive", overrides=small)
    state, batch = _state_and_batch(shared_home, config)
    if kind == "loss":
        batch = replace(batch, target_gain=batch.target_gain * float("nan"))
    else:
        state.model.encoder.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    saved = []
    with pytest.raises(NonFiniteLossError, match=f"{kind}.* (nan|inf).*step 0.*{batch.keys[0]}"):
        train(
            state,
            itertools.repeat(batch),
            loop=LoopConfig(),
            device=CPU,
            log=lambda *_: None,
            save=lambda state: saved.append(state.step),
        )
    assert saved == [0]
    assert all(torch.equal(before[name], p) for name, p in state.model.named_parameters())
    assert ", ".join(batch.keys) in caplog.text


def test_after_a_non_finite_loss_a_run_goes_on_from_the_step_before_it(home, small, monkeypatch):
    layout = DataLayout(home=home)

    def run():
        return train_preset(
            "contrastive", layout=layout, corpora=["demo"], overrides=small, seed=21,
            loop=LoopConfig(checkpoint_every=100, log_every=1),
        )  # fmt: skip

    straight = run().path
    kept = straight.rename(home / "straight")
    _remove(straight.parent)

    import ml.training.loop as loop_module

    real_step = loop_module.train_step

    def poisoned_step(state, batch, *args):
        if state.step == 4:
            batch = replace(batch, target_gain=batch.target_gain * float("nan"))
        return real_step(state, batch, *args)

    monkeypatch.setattr(loop_module, "train_step", poisoned_step)
    with pytest.raises(NonFiniteLossError, match="checkpoint from before this step is saved"):
        run()
    (checkpoint,) = home.glob("runs/*/checkpoints/step-*")
    assert checkpoint.name == "step-0000004"
    monkeypatch.setattr(loop_module, "train_step", real_step)
    resumed = run()
    assert_equal_weights(resumed.path, kept)
    steps = [json.loads(x)["step"] for x in _record(resumed.path).splitlines()]
    assert [s for s, _ in itertools.groupby(steps)] == [1, 2, 3, 4, 5, 6]


def test_a_folder_that_describes_another_run_is_refused_with_the_fields(home, small):
    def run():
        return train_preset(
            "contrastive", layout=DataLayout(home=home), corpora=["demo"], overrides=small, seed=22
        )

    folder = run().path.parent
    _remove(folder / "model")
    described = read_json(folder / "run.json")
    described["identity"]["config"]["optimizer"]["learning_rate"] = 0.5
    described["identity"]["config"]["objective"]["pooled_weight"] = 0.5
    write_json(folder / "run.json", described)
    with pytest.raises(ArtifactError) as refused:
        run()
    assert "objective.pooled_weight: 0.5 → not set; optimizer.learning_rate: 0.5 → 0.0006" in str(
        refused.value
    )


def _state_and_batch(home, config):
    torch.manual_seed(0)
    pairs = ShardPairs(
        [DataLayout(home=home).shards("demo")], config=config.pairs, batch_size=4, seed=0
    )
    batch = next(pairs.batches())
    from ml.models.stem_jepa import StemJepa

    model = StemJepa(config.model)
    measure_statistics(model, [batch])
    return build_state(config, model), batch


def _remove(folder: Path):
    import shutil

    shutil.rmtree(folder)


def _record(model: Path) -> str:
    return (model.parent / "metrics.jsonl").read_text()


def test_phase_1_starts_from_the_encoder_and_the_log_mel_of_a_model(home, starter, small):
    layout, still = DataLayout(home=home), small | {"optimizer.learning_rate": 1e-12}
    artifact = train_preset(
        "contrastive", layout=layout, corpora=["demo"], overrides=still, start="starter"
    )
    trained, begun = weights(artifact.path), weights(starter)
    for name in [name for name in trained if name.startswith(("encoder.", "log_mel."))]:
        part = begun[f"song_{name}" if f"song_{name}" in begun else name]
        torch.testing.assert_close(trained[name], part.float(), atol=1e-6, rtol=0)
    manifest = read_json(artifact.path / "manifest.json")
    assert manifest["phase_1_model_id"] == read_json(starter / "manifest.json")["model_id"]
    untrained = read_models(layout)["untrained"]
    assert untrained == artifact.path.with_name("initial")
    matrix = "encoder.blocks.0.attn.qkv.weight"
    assert not torch.allclose(
        weights(untrained)[matrix], trained[matrix]
    )  # random, not the start's
    again = train_preset(
        "contrastive", layout=layout, corpora=["demo"], overrides=still, start="starter"
    )
    assert (again.path, again.reused) == (artifact.path, True)
    other = train_preset("contrastive", layout=layout, corpora=["demo"], overrides=still)
    assert other.path != artifact.path


def test_phase_2_goes_on_from_the_phase_2_that_its_phase_1_was_begun_from(
    home, starter, small, small_jepa, caplog
):
    layout, still = DataLayout(home=home), small_jepa | {"optimizer.learning_rate": 1e-12}
    first = train_preset(
        "contrastive", layout=layout, corpora=["demo"], overrides=small, start="starter"
    )

    def phase_2(**more):
        with caplog.at_level("INFO"):
            options = {"overrides": still | more, "start": "contrastive"}
            return train_preset("two-part", layout=layout, corpora=["demo"], **options).path

    model = phase_2()
    assert read_json(model / "config.json")["model"]["log_mel"]["mel_bins"] == 64
    trained, begun, phase_1 = weights(model), weights(starter), weights(first.path)
    parts = ("encoder.", "predictor.", "instrument_heads.")
    for name in [name for name in begun if name.startswith(parts)]:
        torch.testing.assert_close(trained[name], begun[name].float(), atol=1e-6, rtol=0)
    for name in [name for name in phase_1 if name.startswith("encoder.")]:  # what phase 1 made
        torch.testing.assert_close(trained[f"song_{name}"], phase_1[name], atol=1e-6, rtol=0)
    identity = read_json(model.parent / "run.json")["identity"]
    assert identity["phase_2"] == read_json(starter / "manifest.json")["model_id"]
    assert "two-part goes on from the predictor of starter-" in caplog.text
    resumed = resume_run(model.parent.name, layout=layout, corpora=["demo"])
    assert (resumed.path, resumed.reused) == (model, True)

    wider = phase_2(**{"model.predictor.hidden": 48})
    assert "phase_2" not in read_json(wider.parent / "run.json")["identity"]
    assert re.search(r"random predictor; .* differs: predictor.hidden: \d+ → 48", caplog.text)


@pytest.mark.usefixtures("starter")
def test_a_start_of_another_size_or_for_another_phase_is_refused(home, small):
    layout = DataLayout(home=home)

    def refuse(preset, match, **overrides):
        with pytest.raises(ValueError, match=match):
            train_preset(
                preset, layout=layout, corpora=["demo"], overrides=overrides, start="starter"
            )

    refuse("contrastive", r"model.encoder.layers: 1 → 2", **small | {"model.encoder.layers": 2})
    bins = {"model.log_mel.mel_bins": 80, "model.encoder.mel_bins": 80}
    refuse("contrastive", r"model.log_mel.mel_bins: 64 → 80", **small | bins)
    refuse("film", "expected contrastive, as phase 1 is what starts from any model")
