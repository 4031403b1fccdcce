"""A whole training under torchrun: rank 0 writes, and the model is that of a single process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ml.artifacts import DataLayout, read_json
from ml.models.stem_jepa import load_model
from ml.training.config import LoopConfig
from ml.training.run_folder import RECORD_NAME, read_record
from ml.training.runs import train_preset


@pytest.mark.slow
def test_two_ranks_train_the_model_of_one(home, small):
    overrides = small | {"precision": "fp32"}
    layout = DataLayout(home=home)
    alone = train_preset(
        "contrastive",
        layout=layout,
        corpora=["demo"],
        overrides=overrides,
        seed=11,
        loop=LoopConfig(checkpoint_every=3, log_every=1),
    )
    model = load_model(alone.path.rename(home / "alone"))
    losses = losses_of(alone.path.parent)
    program = home / "train.py"
    program.write_text(
        "from pathlib import Path\n"
        "from ml.artifacts import DataLayout\n"
        "from ml.training.config import LoopConfig\n"
        "from ml.training.runs import train_preset\n"
        f"found = train_preset('contrastive', layout=DataLayout(home=Path({str(home)!r})),\n"
        f"  corpora=['demo'], overrides={overrides!r}, seed=11,\n"
        "  loop=LoopConfig(checkpoint_every=3, log_every=1))\n"
        "assert not found.reused\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, str(program)], check=True, env=environment)
    together = load_model(alone.path)
    # Adam blows up the rounding of gradients that are 0 in theory; the losses tell.
    assert losses_of(alone.path.parent) == pytest.approx(losses, abs=1e-4)
    assert len(losses) == 6
    torch.testing.assert_close(together.log_mel.mean, model.log_mel.mean)
    manifest = read_json(alone.path / "manifest.json")
    assert manifest["training_tracks"] == model.training_tracks


@pytest.mark.slow
def test_a_sample_that_breaks_the_loss_of_one_rank_stops_all_with_a_checkpoint(home, small):
    program = home / "train.py"
    program.write_text(
        "import os\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "import ml.training.loop as loop\n"
        "from ml.artifacts import DataLayout\n"
        "from ml.training.runs import train_preset\n"
        "real_step, rank = loop.train_step, os.environ['RANK']\n"
        "def poisoned_step(state, batch, *args):\n"
        "    if state.step == 2 and rank == '1':\n"
        "        batch = replace(batch, target_gain=batch.target_gain * float('nan'))\n"
        "    return real_step(state, batch, *args)\n"
        "loop.train_step = poisoned_step\n"
        "try:\n"
        f"    train_preset('contrastive', layout=DataLayout(home=Path({str(home)!r})),\n"
        f"        corpora=['demo'], overrides={small!r}, seed=12)\n"
        "except loop.NonFiniteLossError as error:\n"
        f"    Path({str(home)!r}, 'rank' + rank).write_text(str(error))\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, str(program)], check=True, env=environment, timeout=300)
    for rank in range(2):
        assert "at step 2" in (home / f"rank{rank}").read_text()
    (checkpoint,) = home.glob("runs/*/checkpoints/step-*/manifest.json")
    assert checkpoint.parent.name == "step-0000002"


def losses_of(run: Path) -> list[float]:
    metrics = [line["metrics"] for line in read_record(run / RECORD_NAME)]
    return [x["contrastive/loss"] for x in metrics if "contrastive/loss" in x]
