"""Random gains and equalisers: what they do to the log-mel, and whose rows they are."""

from dataclasses import replace

import pytest
import torch

import ml.training.batches as batches_module
from ml.audio.mel import LogMel, LogMelConfig
from ml.shards.pairs import PairBatch
from ml.training.batches import equaliser, mel_batch

CPU = torch.device("cpu")


def batch_of(rows: int, negatives: int = 0) -> PairBatch:
    torch.manual_seed(0)

    def chunks(*shape):
        return torch.randint(-20_000, 20_000, (*shape, 3200), dtype=torch.int16)

    gains = (torch.arange(rows * negatives).reshape(rows, negatives) % 2).float()
    return PairBatch(
        context=chunks(rows, 2).sum(1) / 32_768,
        target=chunks(rows),
        target_gain=torch.ones(rows),
        condition=torch.randn(rows, 8),
        four_class=torch.zeros(rows, dtype=torch.long),
        track=torch.arange(rows),
        asked=torch.arange(rows),
        label_ids=torch.arange(rows)[:, None],
        labels=["a"] * rows,
        keys=[f"k{i}" for i in range(rows)],
        negatives=chunks(rows, negatives) if negatives else None,
        negative_gain=gains if negatives else None,
    )


@pytest.fixture
def log_mel():
    return LogMel(LogMelConfig())


def test_an_equaliser_is_linear_in_db_between_its_knots():
    power = equaliser(torch.tensor([[0.0, 10.0, -10.0]]), 5)
    torch.testing.assert_close(10 * power.log10(), torch.tensor([[0.0, 5.0, 10.0, 0.0, -10.0]]))


def test_gain_shifts_all_bins_and_the_equaliser_each_bin_of_all_frames(log_mel):
    batch = batch_of(4)
    plain = mel_batch(batch, log_mel, CPU)
    gained = mel_batch(batch, log_mel, CPU, gain_db=6.0, seed=1)
    coloured = mel_batch(batch, log_mel, CPU, eq_db=6.0, seed=1)
    shifts = []
    for side in ("context", "target"):
        level, colour = (
            (getattr(x, side) - getattr(plain, side)) * log_mel.deviation[:, None]  # ln of power
            for x in (gained, coloured)
        )
        assert level.std((1, 2)).max() < 5e-3
        assert colour.std(2).max() < 5e-3  # the same at all times …
        assert colour.mean(2).std(1).min() > 0.05  # … other in each bin
        limit = 0.6 * torch.tensor(10.0).log()  # ±6 dB of power
        assert max(level.abs().max(), colour.abs().max()) < limit + 5e-3
        shifts += [level.mean((1, 2)), colour.mean(2)[:, 0]]
    for one, other in ((0, 2), (1, 3)):  # sides are independent of each other
        assert not torch.allclose(shifts[one], shifts[other], atol=1e-2)


def test_what_is_drawn_depends_on_the_seed_alone(log_mel):
    one, same, other = (
        mel_batch(batch_of(4), log_mel, CPU, gain_db=6.0, eq_db=6.0, seed=seed).context
        for seed in (3, 3, 4)
    )
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, atol=1e-2)


@pytest.mark.parametrize("n_ranks", [2, 4])
def test_a_rank_draws_its_rows_of_the_global_batch(log_mel, monkeypatch, n_ranks):
    whole = batch_of(8, negatives=2)
    options = {"gain_db": 6.0, "eq_db": 6.0, "seed": 5}
    alone = mel_batch(whole, log_mel, CPU, **options)
    monkeypatch.setattr(batches_module, "world", lambda: n_ranks)
    for number in range(n_ranks):
        monkeypatch.setattr(batches_module, "rank", lambda n=number: n)
        mine = whole._with_tensors(lambda x, n=number: x[n::n_ranks])
        mine = replace(mine, keys=whole.keys[number::n_ranks])
        found = mel_batch(mine, log_mel, CPU, **options)
        for name in ("context", "target", "negatives", "is_negative"):
            torch.testing.assert_close(getattr(found, name), getattr(alone, name)[number::n_ranks])


def test_negatives_are_heard_like_targets_and_padding_is_none(log_mel):
    batch = batch_of(3, negatives=2)
    found = mel_batch(batch, log_mel, CPU)
    assert found.negatives is not None
    assert found.is_negative is not None
    assert batch.negatives is not None
    assert found.is_negative.tolist() == [[False, True]] * 3
    alone = log_mel(batch.negatives[:, 1] / 32768)
    torch.testing.assert_close(found.negatives[:, 1], alone)
    silence = log_mel(torch.zeros(3, 3200))
    torch.testing.assert_close(found.negatives[:, 0], silence)
    plain = mel_batch(batch_of(3), log_mel, CPU)
    assert plain.negatives is plain.is_negative is None
