"""Checkpoints beside the steps: what is written is what was saved, and errors are not lost."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ml.models.stem_jepa import StemJepa
from ml.training.checkpoints import CheckpointWriter, load_training_state
from ml.training.config import training_config


@pytest.mark.parametrize("is_beside", [False, True])
def test_a_step_after_saving_does_not_reach_what_is_written(
    tmp_path: Path, small: dict[str, Any], is_beside: bool
):
    config = training_config("contrastive", overrides=small)
    model, seen = StemJepa(config.model), []
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {"step": 3, "master": [torch.ones(1_000)], "betas": (0.9, 0.95)}
    with CheckpointWriter(is_beside=is_beside) as writer:
        for name in ("one", "two"):
            then = partial(seen.append, name)
            writer.save(tmp_path / name, model, config, origin={}, state=state, then=then)
        with torch.no_grad():
            for tensor in (*model.parameters(), *state["master"]):
                tensor.zero_()
    assert seen == ["one", "two"]
    for name in seen:
        written = load_training_state(tmp_path / name)
        assert (written["step"], written["betas"]) == (3, (0.9, 0.95))
        assert torch.equal(written["master"][0], torch.ones(1_000))
        weights = load_file(tmp_path / name / "model.safetensors")
        assert all(torch.equal(weights[key], tensor) for key, tensor in before.items())


def test_what_cannot_be_written_stops_the_next_save_and_the_end(
    tmp_path: Path, small: dict[str, Any]
):
    config = training_config("contrastive", overrides=small)
    model = StemJepa(config.model)
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match="file"),
        CheckpointWriter(is_beside=True) as writer,
    ):
        writer.save(tmp_path / "file" / "step", model, config, origin={})
    with pytest.raises(OSError, match="file"), CheckpointWriter(is_beside=True) as writer:
        writer.save(tmp_path / "file" / "step", model, config, origin={})
        writer.save(tmp_path / "step", model, config, origin={})
    assert not (tmp_path / "step").exists()
