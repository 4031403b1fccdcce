from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ml import kinds
from ml.artifacts import ArtifactError, DataLayout, file_fingerprint, read_json
from ml.models.pretrained import WEIGHTS_NAME
from ml.models.stem_jepa import load_model
from ml.settings import load_settings
from ml.starter import make
from ml.starter.make import CARD_NAME, MAX_BYTES, make_starter
from ml.training.models import find_checkpoint, find_model, has_starter
from ml.upkeep import read_holdings


def test_it_is_the_model_rounded_to_bf16(untrained_starter: Path, starter: Path, tmp_path: Path):
    source = load_model(untrained_starter / "runs" / "random" / "model")
    shipped = load_model(starter)
    mel = torch.randn(4, 64, 100, generator=torch.Generator().manual_seed(0))
    condition = torch.nn.functional.normalize(torch.randn(4, 384), dim=-1)
    for ours, theirs in (
        (shipped.gallery_vectors(mel), source.gallery_vectors(mel)),
        (shipped.query_vectors(mel, condition), source.query_vectors(mel, condition)),
    ):
        assert torch.cosine_similarity(ours, theirs).min() > 0.999
    torch.testing.assert_close(shipped.log_mel.mean, source.log_mel.mean, rtol=0, atol=0)
    stored = load_file(starter / WEIGHTS_NAME)
    assert not [name for name in stored if name.startswith("target_encoder.")]
    made = make_starter(load_settings(untrained_starter), "random", version="7", folder=tmp_path)
    assert file_fingerprint(made.path / WEIGHTS_NAME) == file_fingerprint(starter / WEIGHTS_NAME)


def test_what_cannot_be_shipped_is_refused(untrained_starter: Path, tmp_path: Path, monkeypatch):
    settings = load_settings(shutil.copytree(untrained_starter, tmp_path / "home"))
    monkeypatch.setattr(make, "MAX_BYTES", 1000)
    with pytest.raises(ArtifactError, match="expected at most 1,000"):
        make_starter(settings, "random", folder=tmp_path / "package")
    manifest = settings.layout.runs / "random" / "model" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"minilm"', '"clap"'))
    with pytest.raises(ArtifactError, match="label encoder clap, expected minilm"):
        make_starter(settings, "random", folder=tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_it_is_found_by_name_by_id_and_where_there_is_no_champion(starter: Path, tmp_path: Path):
    layout = DataLayout(home=tmp_path)
    model_id = read_json(starter / "manifest.json")["model_id"]
    for text in (None, "starter", model_id):
        found = find_model(layout, text)
        assert (found.name, found.model_id, found.checkpoint) == ("starter", model_id, starter)
    assert model_id in read_holdings(layout).models  # gc leaves what it has made
    own = shutil.copytree(starter, layout.runs / "starter" / "model")
    assert find_checkpoint(layout, "starter") == own


@pytest.mark.usefixtures("no_starter")
def test_an_installation_without_it_says_so(tmp_path: Path):
    for text in (None, "starter"):
        with pytest.raises(ArtifactError, match="starter is not in this installation"):
            find_model(DataLayout(home=tmp_path), text)


@pytest.mark.skipif(not has_starter(), reason="no model in ml/starter")
def test_the_shipped_model_is_what_its_card_says():
    card = (kinds.SHIPPED.parent / CARD_NAME).read_text()
    manifest = read_json(kinds.SHIPPED / "manifest.json")
    files = {path.name for path in kinds.SHIPPED.iterdir()}
    assert files == {"config.json", "manifest.json", WEIGHTS_NAME}
    assert f"# `starter`, version {manifest['version']}\n" in card
    assert f"`{manifest['model_id']}`" in card
    assert f"`{file_fingerprint(kinds.SHIPPED / WEIGHTS_NAME)}`" in card
    assert sum(path.stat().st_size for path in kinds.SHIPPED.iterdir()) <= MAX_BYTES
    assert read_json(kinds.SHIPPED.parent / "run.json")["model_id"] == manifest["model_id"]
    vector = load_model(kinds.SHIPPED).predict(torch.rand(64_000) - 0.5, "bass guitar")
    assert vector.norm().item() == pytest.approx(1, abs=1e-4)
