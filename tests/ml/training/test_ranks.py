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
from ml.training.runs import train_preset
from ml.training.tracking import RECORD_NAME, read_record


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


def losses_of(run: Path) -> list[float]:
    metrics = [line["metrics"] for line in read_record(run / RECORD_NAME)]
    return [x["contrastive/loss"] for x in metrics if "contrastive/loss" in x]
