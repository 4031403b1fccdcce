"""Other words and noise: only the condition changes, as was asked, the same on all ranks."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import ml.labels.encoders
import ml.labels.wordings as wordings_module
import ml.training.batches as batches_module
from ml.artifacts import ArtifactError, DataLayout
from ml.labels.encoder import TextEncoder
from ml.labels.wordings import wordings
from ml.shards.pairs import PairBatch
from ml.training.batches import vary_conditions
from ml.training.config import LoopConfig, ObjectiveConfig, training_config
from ml.training.execution import Run, wording_vectors

KNOWN = {"a": torch.eye(8)[:3], "b": torch.eye(8)[3:5]}


def batch_of(labels: str) -> PairBatch:
    rows = len(labels)
    return PairBatch(
        context=torch.randn(rows, 4),
        target=torch.zeros(rows, 4, dtype=torch.int16),
        target_gain=torch.ones(rows),
        condition=torch.full((rows, 8), 8**-0.5),
        four_class=torch.zeros(rows, dtype=torch.long),
        track=torch.arange(rows),
        asked=torch.arange(rows),
        label_ids=torch.arange(rows)[:, None],
        labels=list(labels),
        keys=list(labels),
    )


def test_off_it_is_the_same_batch():
    batch = batch_of("ab")
    assert vary_conditions(batch, ObjectiveConfig(), KNOWN, 1) is batch


def test_conditions_come_from_the_texts_of_their_label_as_often_as_asked():
    batch = batch_of("abm" * 1000)
    found = vary_conditions(batch, ObjectiveConfig(wording_share=0.4), KNOWN, 1)
    assert replace(found, condition=batch.condition) == batch  # the very same tensors
    own = (found.condition == batch.condition).all(1)
    assert own[2::3].all()  # a label without wordings keeps its own
    for start, rows in ((0, KNOWN["a"]), (1, KNOWN["b"])):
        changed = found.condition[start::3][~own[start::3]]
        assert 0.35 < len(changed) / 1000 < 0.45
        counts = (changed[:, None] == rows[None]).all(2).sum(0)
        assert counts.sum() == len(changed)
        assert counts.min() > 0.8 * counts.max()


def test_noise_has_the_asked_norm_and_every_seed_its_own():
    batch = batch_of("ab" * 8)
    one, same, other = (
        vary_conditions(batch, ObjectiveConfig(condition_noise=0.3), KNOWN, seed).condition
        - batch.condition
        for seed in (1, 1, 2)
    )
    torch.testing.assert_close(one.norm(dim=1), torch.full((16,), 0.3))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    assert torch.linalg.matrix_rank(one) == 8


def test_a_rank_draws_its_rows_of_the_global_batch(monkeypatch):
    batch, objective = batch_of("ab" * 8), ObjectiveConfig(wording_share=0.5, condition_noise=0.1)
    alone = vary_conditions(batch, objective, KNOWN, 3).condition
    monkeypatch.setattr(batches_module, "world", lambda: 2)
    for number in (0, 1):
        monkeypatch.setattr(batches_module, "rank", lambda n=number: n)
        mine = batch._with_tensors(lambda x, n=number: x[n::2])
        mine = replace(mine, keys=batch.keys[number::2], labels=batch.labels[number::2])
        assert torch.equal(vary_conditions(mine, objective, KNOWN, 3).condition, alone[number::2])


def test_wordings_are_encoded_by_what_made_the_conditions_or_refused(tmp_path, monkeypatch):
    def encode_one(text: str) -> np.ndarray:
        return np.array([len(text), 1.0], dtype=np.float32)

    encoder = TextEncoder("lengths", 2, "none", lambda: encode_one, lambda: "0" * 64)
    monkeypatch.setattr(ml.labels.encoders, "label_encoder_of", lambda *_: encoder)
    described = {"name": "lengths", "fingerprint": "0" * 64}
    pairs: Any = SimpleNamespace(label_encoder=described, training_labels=["sitar"])
    layout = DataLayout(home=tmp_path)
    found = wording_vectors(pairs, layout)
    assert {k: v[:, 0].tolist() for k, v in found.items()} == {
        "sitar": [len(text) for text in wordings("sitar")]
    }
    described["fingerprint"] = "1" * 64
    with pytest.raises(ArtifactError, match=r"111111111111.*000000000000.*wording_share=0"):
        wording_vectors(pairs, layout)


def test_other_words_make_another_run_only_where_they_are_asked_for(tmp_path, monkeypatch):
    pairs: Any = SimpleNamespace(fingerprints=["x"], same_songs=0, training_labels=["sitar"])

    def identity_of(share: float) -> dict[str, Any]:
        config = training_config("film", overrides={"objective.wording_share": share})
        layout, device = DataLayout(home=tmp_path), torch.device("cpu")
        of_it: Any = {"pairs": pairs, "shards": [], "phase_1": None, "loop": LoopConfig()}
        return Run(layout=layout, config=config, device=device, **of_it).identity

    without, with_words = identity_of(0), identity_of(0.5)
    assert without.keys() == {"algorithm", "config", "shards", "phase_1"}
    words = wordings_module.TEMPLATES
    monkeypatch.setattr(wordings_module, "TEMPLATES", (*words, "some {}"))
    assert identity_of(0) == without
    assert identity_of(0.5)["wordings"] != with_words["wordings"]
    monkeypatch.setattr(wordings_module, "TEMPLATES", words)
    assert identity_of(0.5) == with_words
