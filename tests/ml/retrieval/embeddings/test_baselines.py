from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ml.artifacts import ArtifactError, DataLayout, write_json
from ml.beats.features import beat_inputs
from ml.models.stem_jepa import StemJepa
from ml.retrieval.embeddings.baselines import (
    SpectrumModel,
    fitting_models,
    is_baseline,
    load_models,
)
from ml.training.config import training_config
from ml.training.models import find_model


@pytest.fixture
def checkpoint() -> StemJepa:
    torch.manual_seed(0)
    model = StemJepa(training_config("contrastive").model)
    model.manifest = {
        "model_id": "abc",
        "training_tracks": [{"corpus": "demo", "track_id": "one", "content_hash": None}],
    }
    model.spectrum_mean.uniform_(-1, 1)
    return model


def test_spectrum_is_mean_and_deviation_over_frames_minus_training_mean(
    checkpoint: StemJepa,
) -> None:
    spectrum = SpectrumModel(checkpoint)
    assert spectrum.model_id == "spectrum-abc"
    assert spectrum.training_tracks == checkpoint.manifest["training_tracks"]
    assert is_baseline(spectrum)
    mel = torch.randn(3, 160, 50)
    expected = torch.stack(
        [
            torch.cat([clip.mean(1), ((clip - clip.mean(1, keepdim=True)) ** 2).mean(1).sqrt()])
            for clip in mel
        ]
    )
    found = spectrum.gallery_vectors(mel)
    assert found.shape == (3, spectrum.dim)
    assert torch.allclose(found, expected - checkpoint.spectrum_mean, atol=1e-5)
    assert torch.equal(found, spectrum.query_vectors(mel, torch.ones(3, 7)))
    assert spectrum.log_mel.fingerprint() == checkpoint.log_mel.fingerprint()


@pytest.mark.usefixtures("starter")
def test_without_trained_models_the_starter_is_all(tmp_path: Path) -> None:
    assert [model.name for model in load_models(DataLayout(home=tmp_path))] == ["starter"]
    with pytest.raises(ValueError, match=r"'stater' is no model here .did you mean 'starter'."):
        load_models(DataLayout(home=tmp_path), ["stater"])


@pytest.mark.usefixtures("starter")
def test_the_starter_is_embedded_beside_trained_models_only_when_named(shared_home: Path) -> None:
    layout = DataLayout(home=shared_home)
    assert "starter" not in [model.name for model in load_models(layout)]
    assert [model.name for model in load_models(layout, ["starter"])] == ["starter"]


def test_models_are_named_as_for_any_other_verb(shared_home: Path, tmp_path: Path) -> None:
    layout = DataLayout(home=shared_home)
    film = find_model(layout, "film")
    folder = shutil.copytree(film.checkpoint or "", tmp_path / "exported")
    texts = ["film", str(folder), film.model_id, (film.checkpoint or folder).parent.name]
    assert [model.model_id for model in load_models(layout, texts)] == [film.model_id] * 4
    assert [source.model_id for source in beat_inputs(layout, texts[1:2])] == [film.model_id]
    write_json(folder / "manifest.json", {**film.manifest, "model_id": "f" * 16})
    for open_all in (load_models, beat_inputs):
        with pytest.raises(ArtifactError, match=rf"called film .{film.model_id} and f{{16}}.*A B"):
            open_all(layout, ["film", str(folder)])
        with pytest.raises(ArtifactError, match=r"'flim' is no model here .did you mean 'film'"):
            open_all(layout, ["flim"])


def test_models_of_another_label_encoder_are_left_out_by_name(
    shared_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout = DataLayout(home=shared_home)
    models = load_models(layout, ["film", "film-nce", "contrastive"])
    other, *fitting = models
    assert isinstance(other, StemJepa)
    other.manifest["label_encoder"] = {"name": "clap", "dim": 512, "fingerprint": "f" * 64}
    assert fitting_models(models, layout, "demo") == fitting
    assert "left out of demo" in caplog.text
    assert f"model film ({other.model_id}) was trained with clap (512 dimensions" in caplog.text
    with pytest.raises(ArtifactError, match="trained with clap"):
        fitting_models([other], layout, "demo")


@pytest.mark.usefixtures("no_starter")
def test_without_models_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="stems train"):
        load_models(DataLayout(home=tmp_path))
