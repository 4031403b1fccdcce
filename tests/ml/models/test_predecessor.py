"""Weights of the predecessor: the same function as a plain rewriting of its modules.

Names and shapes are those of its public code (``MixEncoder``, ``MlpPredictor``, ``ToLMS``; commit
76d1e1b of SonyCSLParis/Stem-JEPA), down to the grid of positions and patches.
"""

import itertools
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ml.artifacts import ArtifactError
from ml.cli.main import main
from ml.models.predecessor import read_predecessor
from ml.models.stem_jepa import load_model

DIM, LAYERS, HEADS, HIDDEN, FREQ, TIME = 64, 2, 4, 48, 5, 6


class OracleBlock(nn.Module):
    """A block with the predecessor's names."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM, eps=1e-5), nn.LayerNorm(DIM, eps=1e-5)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(DIM, 3 * DIM), "proj": nn.Linear(DIM, DIM)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(DIM, 4 * DIM), "fc2": nn.Linear(4 * DIM, DIM)})

    def forward(self, x):
        batch, patches, _ = x.shape
        q, k, v = (
            part.reshape(batch, patches, HEADS, -1).transpose(1, 2)
            for part in self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1)
        )
        weights = (q @ k.transpose(-1, -2) / (DIM // HEADS) ** 0.5).softmax(-1)
        x = x + self.attn["proj"]((weights @ v).transpose(1, 2).reshape(batch, patches, DIM))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class OracleEncoder(nn.Module):
    """(batch, 1, mel_bin, frame) to (batch, freq_patch, time_patch, dim)."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, FREQ, TIME, DIM), requires_grad=False)
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(1, DIM, 16, stride=16), "norm": nn.Identity()}
        )
        self.blocks = nn.ModuleList(OracleBlock() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(DIM, eps=1e-5)

    def forward(self, mel):
        x = self.patch_embed["proj"](mel).permute(0, 2, 3, 1)
        grid = x + self.pos_embed[:, :, : x.shape[2]]
        x = grid.flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).view_as(grid)


class OraclePredictor(nn.Module):
    """[patch, source] through six linear maps with ReLUs between, then a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.source_embed = nn.Embedding(4, DIM)
        widths = [2 * DIM, *[HIDDEN] * 5, DIM]
        layers: list[nn.Module] = []
        for narrow, wide in itertools.pairwise(widths):
            layers += [nn.Linear(narrow, wide), nn.ReLU()]
        self.blocks = nn.Sequential(*layers[:-1])
        self.norm = nn.LayerNorm(DIM)

    def forward(self, patches, source):
        beside = self.source_embed(source)[:, None, None].expand(*patches.shape[:-1], -1)
        return self.norm(self.blocks(torch.cat([patches, beside], dim=-1)))


def oracle() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "encoder": OracleEncoder(),
            "target_encoder": OracleEncoder(),
            "predictor": OraclePredictor(),
        }
    )


class Callback:
    """A class that a Lightning file may name and that the reader must not need."""

    def __init__(self) -> None:
        self.best = {"score": 1.0}


def lightning_file(path: Path, model: nn.ModuleDict, compiled: bool = False, **more) -> Path:
    state = OrderedDict(
        (name.replace("encoder.", "encoder._orig_mod.", 1) if compiled else name, tensor)
        for name, tensor in model.state_dict().items()
    )
    content = {"epoch": 3, "state_dict": state, "callbacks": {"best": Callback()}, **more}
    torch.save(content, path)
    return path


@pytest.mark.parametrize("compiled", [False, True])
def test_an_imported_model_computes_the_same_function(tmp_path, compiled):
    theirs = oracle()
    path = lightning_file(tmp_path / "last.ckpt", theirs, compiled)
    assert main(["--home", str(tmp_path), "import-stem-jepa", str(path), str(tmp_path / "model"),
                 "--heads", str(HEADS)]) == 0  # fmt: skip
    ours = load_model(tmp_path / "model")
    mel, source = torch.randn(3, 80, 16 * TIME), torch.tensor([0, 3, 1])
    assert ours.chunk_s == pytest.approx(TIME * 0.16)
    assert ours.predictor is not None
    assert ours.target_encoder is not None
    for part in ("encoder", "target_encoder"):
        found = getattr(ours, part)(mel)
        expected = theirs[part](mel[:, None])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    patches = theirs["encoder"](mel[:, None])
    torch.testing.assert_close(
        ours.predictor(patches.flatten(1, 2), None, source),
        theirs["predictor"](patches, source).flatten(1, 2),
        atol=1e-4,
        rtol=1e-4,
    )


def test_the_log_mel_is_theirs(tmp_path):
    """nnAudio's, by librosa in float64: Slaney scale and norm, periodic Hann, log of x + eps."""
    import librosa

    ours, _ = read_predecessor(lightning_file(tmp_path / "x.ckpt", oracle()), heads=HEADS)
    waveform = np.random.default_rng(0).normal(scale=0.1, size=16_000)
    waveform[8_000:] = 0
    mel = librosa.feature.melspectrogram(
        y=waveform, sr=16_000, n_fft=400, hop_length=160, n_mels=80, fmin=50, fmax=8000,
        pad_mode="reflect", dtype=np.float64,
    )  # fmt: skip
    expected = (np.log(mel[:, :100] + np.finfo(np.float32).eps) + 9.453) / 3.569
    found = ours.log_mel(torch.from_numpy(waveform).float()[None])[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_shorter_audio_takes_the_first_positions_and_longer_audio_is_refused(tmp_path):
    theirs = oracle()
    ours, _ = read_predecessor(lightning_file(tmp_path / "x.ckpt", theirs), heads=HEADS)
    mel = torch.randn(1, 80, 32)
    expected = theirs["encoder"](mel[:, None])
    torch.testing.assert_close(ours.encoder(mel), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="7 time patches"):
        ours.encoder(torch.randn(1, 80, 16 * 7))


class Bomb:
    """Runs code when it is unpickled by a reader that lets it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_file_cannot_run_code(tmp_path):
    trace = tmp_path / "trace"
    path = lightning_file(tmp_path / "x.ckpt", oracle(), hyper_parameters=Bomb(trace))
    read_predecessor(path, heads=HEADS)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()


def test_what_is_not_such_a_checkpoint_is_refused_by_name(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        read_predecessor(tmp_path / "none.ckpt")
    text = tmp_path / "text.ckpt"
    text.write_text("no checkpoint")
    with pytest.raises(ArtifactError, match="cannot be read as a PyTorch checkpoint"):
        read_predecessor(text)
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"model.weight": torch.zeros(2)}}, other)
    with pytest.raises(ArtifactError, match=r"no tensors below 'encoder' \(found: model\)"):
        read_predecessor(other)


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("encoder", "pos_embed", "no tensor 'pos_embed'"),
        ("encoder", "norm.weight", 'Missing key.*"norm.weight"'),
        ("predictor", "source_embed.weight", "no tensor 'source_embed.weight'"),
    ],
)
def test_missing_tensors_are_named(tmp_path, part, name, message):
    state = {k: v for k, v in oracle().state_dict().items() if k != f"{part}.{name}"}
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": state}, path)
    with pytest.raises(ArtifactError, match=message):
        read_predecessor(path, heads=HEADS)
