"""Configurations: the paper's numbers, presets, overrides, JSON."""

import json
import math

import pytest

from ml.artifacts import fingerprint
from ml.plain import dataclass_from, jsonable
from ml.training.config import PRESETS, TrainingConfig, linear, training_config, warmup_cosine


@pytest.mark.parametrize("size", ["tiny", "small", "paper"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_configuration_round_trips_through_json(preset, size):
    config = training_config(preset, size=size, seed=3)
    assert dataclass_from(TrainingConfig, json.loads(json.dumps(jsonable(config)))) == config


def test_the_paper_size_is_the_paper():
    config = training_config("film", size="paper", condition_dim=512)
    encoder, predictor = config.model.encoder, config.model.predictor
    assert predictor is not None
    assert (encoder.dim, encoder.layers, encoder.heads, encoder.patch) == (768, 12, 12, 16)
    assert (predictor.conditioning, predictor.hidden, predictor.layers) == ("film", 1024, 6)
    assert (config.batch_size, config.steps, config.pairs.chunk_s) == (256, 300_000, 8.0)
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.warmup_steps) == (1e-3, 20_000)
    assert (optimizer.beta1, optimizer.beta2, optimizer.weight_decay) == (0.9, 0.95, 0.05)
    assert optimizer.is_decaying_all
    assert optimizer.clip_norm == 3.0
    assert (config.objective.ema_start, config.objective.ema_end) == (0.99995, 0.99999)
    # Nothing that is documented as "Differs:" is on.
    assert not config.model.is_centred
    assert config.model.target_norm == "standardise"
    assert not config.model.log_mel.is_measured
    assert not config.model.log_mel.is_octave
    assert (optimizer.encoder_rate, config.objective.nce_weight) == (1.0, 0.0)
    assert not config.model.is_context_centred
    assert not predictor.is_residual
    assert not predictor.is_condition_centred
    objective, pairs = config.objective, config.pairs
    assert (objective.gain_db, objective.eq_db, objective.pooled_weight) == (0.0, 0.0, 0.0)
    assert (objective.wording_share, objective.condition_noise) == (0.0, 0.0)
    assert (pairs.music_share, pairs.semitones, pairs.negatives) == (0.0, 0, 0)
    assert (pairs.rule, pairs.min_peak, pairs.is_by_track) == ("peak", 0.1, True)
    assert encoder.is_xavier
    assert objective.is_temperature_kept
    assert not predictor.is_plainly_drawn  # what FiLM needs
    for preset in ("class", "clap", "pretrained"):
        predictor = training_config(preset, size="paper").model.predictor
        assert predictor is not None
        assert predictor.is_plainly_drawn


def test_rates_of_the_paper_follow_batch_size_and_length_unless_set():
    assert training_config("class", size="paper").optimizer.learning_rate == 3e-4
    overrides = {"batch_size": 64, "steps": 30_000}
    config = training_config("film", size="paper", overrides=overrides)
    assert config.optimizer.learning_rate == pytest.approx(1e-3 / 4)
    assert config.optimizer.warmup_steps == 2_000
    horizon = 1 - config.objective.ema_start, 1 - config.objective.ema_end
    assert horizon == pytest.approx((15 / 30_000, 3 / 30_000))
    own = {"optimizer.learning_rate": 2e-3, "optimizer.warmup_steps": 7, "objective.ema_end": 0.9}
    config = training_config("film", size="paper", overrides=overrides | own)
    assert (config.optimizer.learning_rate, config.optimizer.warmup_steps) == (2e-3, 7)
    assert config.objective.ema_end == 0.9
    below = training_config("film", size="small", overrides=overrides)
    assert below.optimizer == training_config("film", size="small").optimizer


RECORDED = {
    ("tiny", "contrastive"): "9bf534cf90de",
    ("tiny", "class"): "7f8e2254a95d",
    ("tiny", "clap"): "026f263ffbf0",
    ("tiny", "pretrained"): "a1f8d607c23b",
    ("tiny", "film"): "2d44ba8abe38",
    ("tiny", "film-nce"): "0a7c214df46f",
    ("small", "contrastive"): "312a68ddd491",
    ("small", "film-nce"): "273744a156ff",
    ("paper", "contrastive"): "faf5524bf195",
    ("paper", "film"): "bbf9040e16c1",
}
"""Fingerprints that name trained runs; below size ``paper`` from before any ``added_field``."""


@pytest.mark.parametrize(("size", "preset"), RECORDED)
def test_configurations_keep_the_fingerprints_that_name_trained_runs(size, preset):
    config = training_config(preset, size=size)
    assert fingerprint(config)[:12] == RECORDED[size, preset]


@pytest.mark.parametrize(
    "overrides",
    [
        {"model.target_norm": "centre-scale"},
        {"model.is_context_centred": True},
        {"model.predictor.is_condition_centred": True},
        {"objective.eq_db": 6},
        {"objective.pooled_weight": 0.5},
        {"objective.wording_share": 0.5},
        {"objective.condition_noise": 0.3},
        {"pairs.music_share": 0.1},
        {"pairs.hard_negatives": 2},
        {"pairs.time_negatives": 1},
        {"pairs.semitones": 3, "pairs.speed_negatives": 1},
    ],
)
def test_a_lead_is_another_run_and_round_trips(overrides):
    config = training_config("film-nce", overrides=overrides)
    assert fingerprint(config)[:12] not in RECORDED.values()
    assert dataclass_from(TrainingConfig, json.loads(json.dumps(jsonable(config)))) == config


def test_presets_differ_in_what_their_row_says():
    conditioning = {
        preset: config.model.predictor and config.model.predictor.conditioning
        for preset in PRESETS
        for config in [training_config(preset)]
    }
    assert conditioning == {
        "contrastive": None,
        "class": "class",
        "clap": "concat",
        "pretrained": "concat",
        "film": "film",
        "film-nce": "film",
        "two-part": "film",
    }


def test_overrides_reach_any_field():
    overrides = {"optimizer.learning_rate": 1, "model.encoder.dim": 64, "steps": 5}
    config = training_config("film", overrides=overrides | {"model.predictor.dim": 64})
    assert (config.optimizer.learning_rate, config.model.encoder.dim, config.steps) == (1.0, 64, 5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optimizer.lr", 1, "no field 'lr'"),
        ("optimiser.learning_rate", 1, "no field 'optimiser'"),
        ("optimizer", 1, "single value"),
        ("steps.more", 1, "single value"),
        ("optimizer.learning_rate", -1, "more than 0"),
    ],
)
def test_a_wrong_override_is_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        training_config("film", overrides={name: value})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.chunk_s": 2.0}, "model.chunk_s=2, pairs.chunk_s=4"),
        ({"pairs.chunk_s": 8.0}, "model.chunk_s=4, pairs.chunk_s=8"),
        ({"model.encoder.dim": 64}, "model.encoder.dim=64, model.predictor.dim=128"),
        ({"model.log_mel.mel_bins": 64}, "mel_bins=64, model.encoder.mel_bins=160"),
        ({"pairs.hard_negatives": 1}, "objective.nce_weight=0: expected a weight"),
        ({"objective.eq_db": -3.0}, "eq_db=-3.0: expected 0"),
    ],
)
def test_what_is_set_in_two_places_must_agree(overrides, message):
    with pytest.raises(ValueError, match=message):
        training_config("film", overrides=overrides)


def test_hard_negatives_belong_to_phase_2():
    overrides = {"pairs.hard_negatives": 1, "objective.nce_weight": 0.5}
    with pytest.raises(ValueError, match="in phase contrastive"):
        training_config("contrastive", overrides=overrides)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="film-nce"):
        training_config("filmm")
    with pytest.raises(ValueError, match="tiny, small, paper"):
        training_config("film", size="huge")  # pyright: ignore[reportArgumentType]


def test_warm_up_then_half_a_cosine():
    def rate(step):
        return warmup_cosine(step, steps=110, warmup_steps=10, peak=2.0)

    assert [rate(0), rate(4), rate(9)] == pytest.approx([0.2, 1.0, 2.0])
    assert rate(10) == pytest.approx(2.0)
    assert rate(60) == pytest.approx(1.0)
    assert rate(35) == pytest.approx(1 + math.cos(math.pi / 4))
    assert rate(110) == pytest.approx(0.0)


def test_the_rate_never_rises_after_the_warm_up():
    rates = [warmup_cosine(s, steps=50, warmup_steps=5, peak=1.0) for s in range(50)]
    assert rates[:6] == sorted(rates[:6])
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_the_ema_rate_is_linear_between_its_ends():
    rates = [linear(s, steps=5, start=0.9, end=0.98) for s in range(5)]
    assert rates == pytest.approx([0.9, 0.92, 0.94, 0.96, 0.98])
