"""The model as it is used: embeddings, means, loading."""

import shutil

import numpy as np
import pytest
import torch

from ml.artifacts import ArtifactError, DataLayout
from ml.audio.mel import LogMelConfig
from ml.models.config import StemJepaConfig
from ml.models.predictor import PredictorConfig
from ml.models.stem_jepa import StemJepa, load_model, weighted_parts, without_instrument
from ml.models.vit import ViTConfig
from ml.training.models import read_models

RATE_HZ = 16_000


def build(phase: str = "jepa", **changes) -> StemJepa:
    torch.manual_seed(0)
    predictor = PredictorConfig(dim=32, hidden=16, condition_dim=8) if phase == "jepa" else None
    config = StemJepaConfig(
        log_mel=LogMelConfig(),
        encoder=ViTConfig(dim=32, layers=1, heads=2),
        predictor=predictor,
        chunk_s=1.0,
        **changes,
    )
    return StemJepa(config).eval()


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(scale=0.1, size=round(seconds * RATE_HZ)).astype(np.float32)


def test_parts_count_by_their_shares_however_long_they_are():
    """Hand-worked: parts (3, 4) and (0, 2) are (0.6, 0.8) and (0, 1)."""
    row = weighted_parts(torch.tensor([3.0, 4.0, 0.0, 2.0]), (0.36, 0.64))
    torch.testing.assert_close(row, torch.tensor([0.36, 0.48, 0.0, 0.8]))
    song = weighted_parts(without_instrument(row, (0.36, 0.64)), (0.36, 0.64))
    torch.testing.assert_close(song, torch.tensor([0.6, 0.8, 0.0, 0.0]))
    torch.testing.assert_close(without_instrument(row, (1.0,)), row)


def test_any_music_is_asked_for_by_the_song_part_alone(monkeypatch):
    model = build(song_share=0.3)
    monkeypatch.setattr(model, "_condition", lambda text: (torch.ones(1, 8) * len(text), None))
    mix, stem = noise(3.0), model.embed_stem(noise(2.5, 1))
    asked, any_music = model.predict(mix, "bass"), model.predict(mix, "music")
    assert not any_music[32:].any()
    torch.testing.assert_close(any_music[:32] * 0.3**0.5, asked[:32])
    torch.testing.assert_close(stem[:32].norm() ** 2, torch.tensor(0.3))


@pytest.mark.parametrize("phase", ["contrastive", "jepa"])
def test_a_stem_has_one_unit_vector_whatever_its_length(phase):
    model = build(phase)
    for seconds in (0.5, 1.0, 2.3):
        vector = model.embed_stem(noise(seconds))
        assert vector.shape == (32,)
        assert vector.norm().item() == pytest.approx(1.0, abs=1e-5)


def test_silence_around_a_stem_does_not_count():
    model = build("contrastive")
    sound, silence = noise(2.0), np.zeros(4 * RATE_HZ, dtype=np.float32)
    padded = np.concatenate([silence, sound, silence])
    torch.testing.assert_close(model.embed_stem(padded), model.embed_stem(sound))


@pytest.mark.parametrize("waveform", [np.zeros(RATE_HZ, np.float32), noise(0.1)])
def test_silence_and_snippets_are_refused(waveform):
    with pytest.raises(ValueError, match="silent or too short"):
        build().embed_stem(waveform)


def test_centring_takes_away_what_all_stems_share():
    model = build(target_norm="centre")
    mel = model.log_mel(torch.from_numpy(np.stack([noise(1.0, seed) for seed in range(6)])))
    before = model.gallery_vectors(mel)
    for _ in range(3):
        model.update_means(target=model.target_patches(mel))
    torch.testing.assert_close(model.target_mean, model.target_patches(mel).mean(0))
    after = model.gallery_vectors(mel)

    def mean_cosine(rows):
        unit = torch.nn.functional.normalize(rows, dim=-1)
        return ((unit @ unit.T).sum() - len(unit)) / (len(unit) * (len(unit) - 1))

    assert mean_cosine(before) > 0.9
    assert mean_cosine(after) < 0.3


def test_the_running_mean_first_averages_then_forgets():
    model = build("contrastive")
    rows = [torch.full((4, 5, 7, 32), float(value)) for value in (1, 2, 3)]
    for patches in rows:
        model.update_means(target=patches)
    assert model.target_mean.mean().item() == pytest.approx(2.0)
    model.mean_updates.fill_(10_000)
    model.update_means(target=torch.full((4, 5, 7, 32), 102.0))
    assert model.target_mean.mean().item() == pytest.approx(2.0 + 0.01 * 100)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 3.0])
def test_means_are_truncated_or_continued_to_other_lengths(seconds):
    model = build(target_norm="centre")
    mel = model.log_mel(torch.from_numpy(noise(seconds))[None])
    assert model.normalise_target(model.target_patches(mel)).shape[0] == 1


def test_the_prediction_depends_on_mix_and_instrument(shared_home):
    model = load_model(read_models(DataLayout(home=shared_home))["film-nce"])
    drums = model.predict(noise(2.0), "drums")
    assert drums.norm().item() == pytest.approx(1.0, abs=1e-5)
    assert not torch.allclose(drums, model.predict(noise(2.0), "violin"), atol=1e-4)
    assert not torch.allclose(drums, model.predict(noise(2.0, seed=1), "drums"), atol=1e-5)


def test_damaged_weights_are_named(shared_home, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(read_models(DataLayout(home=shared_home))["film"], folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=f"{weights}.*make it again"):
        load_model(folder)
    with pytest.raises(ArtifactError, match="stems train"):
        load_model(tmp_path)


def test_a_label_encoder_of_another_version_is_refused(shared_home):
    model = load_model(read_models(DataLayout(home=shared_home))["film"])
    model.manifest["label_encoder"] = model.label_encoder | {"fingerprint": "other"}
    with pytest.raises(ArtifactError, match="trained with label encoder"):
        model.predict(noise(1.0), "drums")
