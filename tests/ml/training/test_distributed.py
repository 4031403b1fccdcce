"""Two processes on half a batch each: the loss and gradients of one process on all of it."""

import json
import subprocess
import sys

import pytest
import torch

from ml.training.distributed import any_rank, from_rank_0, gather_rows, global_mean

SCRIPT = """
import json
import sys
from pathlib import Path
import torch
from ml.models.stem_jepa import StemJepa
from ml.training.batches import MelBatch
from ml.training.config import LoopConfig
from ml.training.config import training_config
from ml.training.distributed import any_rank, process_group, rank, world
from ml.training.loop import build_state, distributed_phase

def measure(preset, overrides, device):
    config = training_config(preset, condition_dim=8, overrides={
        "model.encoder.dim": 16, "model.encoder.layers": 1, "model.encoder.heads": 2,
        "model.chunk_s": 1.0, "pairs.chunk_s": 1.0, "precision": "fp32", "batch_size": 8,
        **({} if preset == "contrastive" else
           {"model.predictor.dim": 16, "model.predictor.hidden": 16}), **overrides})
    torch.manual_seed(0)
    state = build_state(config, StemJepa(config.model))
    generator = torch.Generator().manual_seed(1)
    def draw(*shape):
        return torch.randn(*shape, generator=generator)
    whole = dict(context=draw(8, 160, 50), target=draw(8, 160, 50), condition=draw(8, 8),
        classes=torch.arange(8) % 4, tracks=torch.tensor([0, 1, 2, 3, 4, 5, 0, 6]),
        asked=torch.tensor([0, 1, 0, 1, 0, 1, 0, 1]),
        label_ids=torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])[:, None])
    if config.pairs.negatives:
        whole |= dict(negatives=draw(8, 2, 160, 50), is_negative=draw(8, 2) > 0)
    batch = MelBatch(**{name: rows[rank()::world()] for name, rows in whole.items()})
    phase = distributed_phase(state, LoopConfig(), device)
    loss, _ = phase(batch)
    loss.backward()
    gathered = loss.detach().clone()
    if world() > 1:
        torch.distributed.all_reduce(gathered)
    state.phase.after_step(0)
    grads = {n: p.grad for n, p in state.phase.named_parameters() if p.grad is not None}
    return {"loss": gathered / world(), "grads": grads, "means": list(state.model.buffers())}

out, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
torch.set_num_threads(1)
with process_group(torch.device("cpu")) as device:
    found = {name: measure(*case, device) for name, case in cases.items()}
    assert any_rank(rank() == world() - 1)
    assert not any_rank(False)
    if rank() == 0:
        torch.save(found, out)
"""
LEADS = {
    "model.target_norm": "centre-scale",
    "model.is_context_centred": True,
    "model.predictor.is_residual": True,
    "objective.pooled_weight": 0.5,
    "pairs.hard_negatives": 2,
}
CASES = {
    "contrastive": ("contrastive", {}),
    "time": ("contrastive", {"pairs.time_negatives": 2}),
    "film-nce": ("film-nce", {}),
    "leads": ("film-nce", LEADS),
}


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    """What one process and what two processes find, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "ranks.py"
    script.write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        arguments = [str(script), str(folder / f"{name}.pt"), json.dumps(CASES)]
        subprocess.run([sys.executable, *launcher, *arguments], check=True)
    return tuple(torch.load(folder / f"{name}.pt") for name in ("one", "two"))


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_have_the_loss_and_gradients_of_one(one_and_two, case):
    single, double = (found[case] for found in one_and_two)
    torch.testing.assert_close(double["loss"], single["loss"], atol=1e-5, rtol=1e-5)
    assert double["grads"].keys() == single["grads"].keys()
    assert len(single["grads"]) > 5
    for name, gradient in single["grads"].items():
        torch.testing.assert_close(double["grads"][name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    assert len(single["means"]) > 5
    for mine, theirs in zip(single["means"], double["means"], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_a_single_process_gets_back_what_it_gave():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows
    assert torch.equal(global_mean(rows), rows)
    assert from_rank_0({"a": 1}) == {"a": 1}
    assert any_rank(True)
