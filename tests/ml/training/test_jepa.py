"""Phase 2 with the fields that are off in ``paper``: where it starts, and what each one trains."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ml.artifacts import DataLayout
from ml.models.stem_jepa import StemJepa, load_model
from ml.shards.reader import ShardPairs
from ml.training.batches import MelBatch, mel_batch
from ml.training.checkpoints import start_from_phase_1
from ml.training.config import LoopConfig, training_config
from ml.training.contrastive import ContrastivePhase
from ml.training.execution import measure_target_variance
from ml.training.jepa import MUSIC_ID, ExponentialMovingAverage, JepaPhase
from ml.training.loop import build_state, distributed_phase, train, train_step
from ml.training.models import read_models

CPU = torch.device("cpu")
CENTRED_RESIDUAL = {"model.predictor.is_residual": True, "model.is_context_centred": True}


@pytest.fixture
def start(shared_home, small_jepa):
    """A preset and overrides to a state at step 0 after phase 1, and a batch."""
    layout = DataLayout(home=shared_home)

    def begin(overrides, preset="film-nce"):
        overrides = small_jepa | {"batch_size": 6, "precision": "fp32"} | overrides
        config = training_config(preset, overrides=overrides)
        pairs = ShardPairs([layout.shards("demo")], config=config.pairs, batch_size=6, seed=0)
        torch.manual_seed(0)
        model = StemJepa(config.model)
        start_from_phase_1(model, read_models(layout)["contrastive"])
        if model.has_variance:
            measure_target_variance(model, itertools.islice(pairs.batches(), 8))
        if model.has_context_patches:
            model.begin_context_patches()
        return build_state(config, model), next(pairs.batches())

    return begin


def phase_of(state) -> JepaPhase:
    assert isinstance(state.phase, JepaPhase)
    return state.phase


@pytest.mark.parametrize("norm", ["centre", "centre-scale"])
def test_a_centred_residual_predictor_starts_at_the_score_of_phase_1(start, shared_home, norm):
    state, batch = start(CENTRED_RESIDUAL | {"model.target_norm": norm})
    model = state.model
    mels = mel_batch(batch, model.log_mel, CPU)
    phase_1 = load_model(read_models(DataLayout(home=shared_home))["contrastive"])
    scale = model.target_variance.sqrt() if model.has_variance else torch.ones(1, 1)
    with torch.no_grad():
        context = model.encoder(mels.context)
        query = model.predict_patches(context, mels.condition, mels.classes).mean(1)
        target = model.normalise_target(model.target_patches(mels.target)).mean(1)
    # A mean over frequency rows of what each row's deviation divides; with "centre" nothing does.
    for found, pooled_mean, patches in (
        (query, phase_1.context_mean, phase_1.encoder(mels.context)),
        (target, phase_1.target_mean.mean((0, 1)), phase_1.encoder(mels.target)),
    ):
        places = phase_1.target_mean - phase_1.target_mean.mean((0, 1))
        expected = ((patches - places - pooled_mean) / scale[:, None]).mean((1, 2))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    if norm == "centre":  # what phase 1 compares
        torch.testing.assert_close(query, phase_1.query_vectors(mels.context), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(
            target, phase_1.gallery_vectors(mels.target), atol=1e-4, rtol=1e-3
        )


def test_the_residual_alone_starts_elsewhere(start):
    vectors = []
    for overrides in (CENTRED_RESIDUAL, {"model.predictor.is_residual": True}):
        state, batch = start(overrides)
        mels = mel_batch(batch, state.model.log_mel, CPU)
        vectors.append(F.normalize(state.model.query_vectors(mels.context, mels.condition), dim=-1))
    assert (vectors[0] @ vectors[0].T).mean() < (vectors[1] @ vectors[1].T).mean() - 0.2


def test_what_the_loss_is_made_of(start):
    state, batch = start({"objective.pooled_weight": 0.7, "pairs.hard_negatives": 2})
    mels = mel_batch(batch, state.model.log_mel, CPU)
    loss, metrics = phase_of(state)(mels)
    parts = (metrics[f"jepa/{name}"] for name in ("patch_loss", "pooled_loss", "nce_loss"))
    expected = sum(w * part for w, part in zip((1.0, 0.7, 0.5), parts, strict=True))
    torch.testing.assert_close(loss.detach(), expected)


def test_hard_negatives_change_the_contrastive_term_alone(start):
    losses = []
    for hard_negatives in (0, 3):
        state, batch = start({"pairs.hard_negatives": hard_negatives})
        _, metrics = phase_of(state)(mel_batch(batch, state.model.log_mel, CPU))
        losses.append(metrics)
    assert losses[0]["jepa/patch_loss"] == pytest.approx(float(losses[1]["jepa/patch_loss"]))
    assert losses[1]["jepa/nce_loss"] > losses[0]["jepa/nce_loss"] + 1e-3


LEADS = {
    "model.target_norm": "centre-scale",
    "model.predictor.is_condition_centred": True,
    "objective.pooled_weight": 0.5,
    "objective.gain_db": 6.0,
    "objective.eq_db": 6.0,
    "pairs.music_share": 0.2,
    "pairs.hard_negatives": 2,
    **CENTRED_RESIDUAL,
}


def test_all_leads_together_learn_one_batch(start):
    plain = {"steps": 80, "optimizer.warmup_steps": 5, "optimizer.learning_rate": 3e-3}
    state, batch = start(LEADS | plain | {"objective.gain_db": 0.0, "objective.eq_db": 0.0})
    losses = [float(train_step(state, batch, CPU)["jepa/loss"]) for _ in range(80)]
    assert losses[-1] < 0.5 * losses[0]
    means = (state.model.target_variance, state.model.context_patch_mean)
    assert all(bool(torch.isfinite(x).all()) for x in means)


def test_running_deviation_and_context_mean_follow_training(start):
    state, batch = start(LEADS)
    before = {n: b.clone() for n, b in state.model.named_buffers()}
    for _ in range(3):
        train_step(state, batch, CPU)
    for name in ("target_variance", "context_patch_mean", "target_mean"):
        assert not torch.equal(before[name], state.model.get_buffer(name)), name
    for name in ("predictor.condition_mean", "context_mean"):
        assert torch.equal(before[name], state.model.get_buffer(name)), name


def test_10k_steps_at_0_99999_equal_the_formula_in_float64():
    torch.manual_seed(0)
    target, source = nn.Linear(8, 8), nn.Linear(8, 8)
    expected = target.weight.detach().double().clone()
    ema = ExponentialMovingAverage(target)
    for step in range(10_000):
        if step % 100 == 0:
            with torch.no_grad():
                source.weight.add_(torch.randn(8, 8) * 0.01)
        ema.update(source, 0.99999)
        expected = 0.99999 * expected + (1 - 0.99999) * source.weight.detach().double()
    torch.testing.assert_close(target.weight.detach(), expected.float(), rtol=1e-6, atol=1e-7)


def test_float32_accumulation_would_lose_it():
    # Why there is a float64 master copy: the same sum in float32 is off by far more.
    mean, goal = torch.tensor(1.0), torch.tensor(1.001)
    exact = 1.0
    for _ in range(10_000):
        mean = torch.lerp(mean, goal, 1e-5)
        exact = exact + 1e-5 * (float(goal) - exact)
    assert abs(float(mean) - exact) > 0.2 * abs(exact - 1.0)


def test_state_continues_exactly():
    torch.manual_seed(0)
    source = nn.Linear(4, 4)
    straight, resumed = (nn.Linear(4, 4) for _ in range(2))
    resumed.load_state_dict(straight.state_dict())
    one = ExponentialMovingAverage(straight)
    for _ in range(6):
        one.update(source, 0.9)
    two = ExponentialMovingAverage(resumed)
    for _ in range(3):
        two.update(source, 0.9)
    saved = {"master": [m.clone() for m in two.state_dict()["master"]]}
    three = ExponentialMovingAverage(nn.Linear(4, 4))
    three.load_state_dict(saved)
    for _ in range(3):
        three.update(source, 0.9)
    for a, b in zip(one.state_dict()["master"], three.state_dict()["master"], strict=True):
        assert torch.equal(a, b)


TWO_PARTS = {"model.song_share": 0.3}


def test_the_cosine_of_two_parts_is_their_weighted_sum(start, shared_home):
    state, batch = start(TWO_PARTS, "two-part")
    train_step(state, batch, CPU)  # phase 2 has moved its own encoder, not the song part
    model, mels = state.model.eval(), mel_batch(batch, state.model.log_mel, CPU)
    phase_1 = load_model(read_models(DataLayout(home=shared_home))["contrastive"])
    query, found = (
        model.query_vectors(mels.context, mels.condition, mels.classes),
        model.gallery_vectors(mels.target),
    )
    with torch.no_grad():
        prediction = model.predict_patches(
            model.encoder(mels.context), mels.condition, mels.classes
        )
        asked, stem = (
            model.instrument_asked(prediction),
            model.instrument_of_stem(model.encoder(mels.target)),
        )
    song = F.cosine_similarity(
        phase_1.query_vectors(mels.context), phase_1.gallery_vectors(mels.target)
    )
    instrument = F.cosine_similarity(asked, stem)
    torch.testing.assert_close((query * found).sum(1), 0.3 * song + 0.7 * instrument)
    assert query.shape[1] == model.dim == 2 * phase_1.dim


def test_the_song_share_weighs_answers_and_teaches_nothing(start):
    learned = []
    for share in (0.3, 0.6):
        state, batch = start({"model.song_share": share}, "two-part")
        for _ in range(2):
            train_step(state, batch, CPU)
        learned.append(state.model.state_dict())
    one, other = learned
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_in_two_parts_no_stem_of_the_asked_label_is_a_negative(start):
    state, batch = start(TWO_PARTS, "two-part")
    mels = mel_batch(batch, state.model.log_mel, CPU)
    mels = replace(
        mels,
        asked=torch.tensor([1, 2, 1, 3, MUSIC_ID, 9]),
        label_ids=torch.tensor([[2, 1], [2, 1], [1, 1], [3, 3], [4, 4], [9, 9]]),
        tracks=torch.tensor([0, 0, 1, 2, 3, 3]),
    )
    everywhere = phase_of(state)._is_answer(mels)
    expected = [
        *([1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]),
        *([0, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]),
    ]
    assert everywhere.long().tolist() == expected
    state, _ = start({})
    same_track = mels.tracks[:, None] == mels.tracks[None]
    # "Guitar" (1) asks for the acoustic guitar (2, 1) of its track too, and for no other's.
    assert torch.equal(phase_of(state)._is_answer(mels), everywhere & same_track)


@pytest.mark.parametrize("preset", ["contrastive", "film-nce"])
def test_losses_and_ranks_see_differences_that_bf16_does_not(preset, small_jepa, monkeypatch):
    """Cosines of 0.9999 and more: in bf16 all are equal, and every rank is the last."""
    small = {k: v for k, v in small_jepa.items() if preset != "contrastive" or "predictor" not in k}
    config = training_config(preset, overrides=small)
    config = replace(config, model=replace(config.model, is_centred=False, target_norm="centre"))
    phase = build_state(config, StemJepa(config.model)).phase.eval()
    rows, model = 6, phase.model
    patches = torch.ones(rows, 1, 1, model.dim)
    patches[:, 0, 0, :rows] += 0.02 * torch.eye(rows)
    monkeypatch.setattr(
        model.encoder, "forward", lambda mel: patches.repeat(len(mel) // rows, 1, 1, 1)
    )
    if model.target_encoder is not None:
        monkeypatch.setattr(model.target_encoder, "forward", lambda _: patches)
        monkeypatch.setattr(model, "predict_patches", lambda context, *_: context.flatten(1, 2))
    for module in ("jepa", "contrastive"):
        bf16 = torch.autocast("cpu", torch.bfloat16)
        monkeypatch.setattr(f"ml.training.{module}.autocast", lambda *_, bf16=bf16: bf16)
    mel, each = torch.zeros(rows, 160, 200), torch.arange(rows)
    _, metrics = phase(
        MelBatch(
            context=mel,
            target=mel,
            condition=torch.zeros(rows, 384),
            classes=each * 0,
            tracks=each,
            asked=each,
            label_ids=each[:, None],
        )
    )
    assert float(metrics[f"{model.phase}/normalized_rank"]) == pytest.approx(100 / rows)


@pytest.mark.parametrize("preset", ["contrastive", "film"])
def test_the_temperature_comes_back_from_its_bound_and_is_not_decayed(preset, small_jepa):
    small = {k: v for k, v in small_jepa.items() if preset != "contrastive" or "predictor" not in k}
    more = {"objective.is_temperature_kept": True, "optimizer.is_decaying_all": True}
    config = training_config(preset, overrides=small | more)
    state = build_state(config, StemJepa(config.model))
    decays = {x["part"]: x["weight_decay"] for x in state.optimizer.param_groups}
    assert decays.pop("temperature", 0.0) == 0.0
    assert set(decays.values()) == {config.optimizer.weight_decay}
    if isinstance(state.phase, ContrastivePhase):
        for passed, bound in ((5.0, 1.0), (-9.0, 0.02)):
            state.phase.log_temperature.data.fill_(passed)
            patches = torch.zeros(1, *config.model.patch_grid)
            state.phase._seen = patches.mean((1, 2)), patches
            state.phase.after_step(0)
            state.phase.temperature.backward()
            assert state.phase.temperature.item() == pytest.approx(bound)
            assert state.phase.log_temperature.grad


def test_blocks_that_are_computed_twice_give_the_same_gradients(start):
    gradients = []
    for is_recomputing in (False, True):
        state, batch = start({})
        loop = LoopConfig(is_recomputing=is_recomputing)
        loss, _ = distributed_phase(state, loop, CPU)(mel_batch(batch, state.model.log_mel, CPU))
        loss.backward()
        assert state.model.encoder.is_recomputing == is_recomputing
        gradients.append([p.grad for p in state.model.encoder.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("loop", "saved"), [({}, [3]), ({"checkpoint_s": 0.0}, [1, 2, 3])])
def test_checkpoints_are_due_by_the_clock_and_at_the_end(start, loop, saved):
    state, batch = start({"steps": 3})
    found = []
    train(
        state,
        itertools.repeat(batch),
        loop=LoopConfig(**loop),
        device=CPU,
        log=lambda *_: None,
        save=lambda state: found.append(state.step),
    )
    assert found == saved
