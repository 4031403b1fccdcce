"""``clap-audio`` as a row of the table; the audio branch itself is tested beside ``laion_clap``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ml.artifacts import ArtifactError, DataLayout
from ml.labels.clap import CLIP_S, RATE_HZ, clap_clip
from ml.labels.clap_files import ClapFiles
from ml.retrieval.embeddings.baselines import ClapAudioModel, is_baseline, load_models
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.embeddings.files import read_embeddings, unit_rows, vectors_of
from ml.retrieval.embeddings.passes import query_chunks
from ml.retrieval.embeddings.source import open_source
from ml.retrieval.evaluation.evaluate import evaluate_retrieval


class Bands:
    """In place of the audio branch: mean power in 512 bands, unit norm."""

    def to(self, _device: torch.device) -> Bands:
        return self

    def log_mel(self, waveform: Tensor) -> Tensor:
        power = torch.fft.rfft(clap_clip(waveform)).abs().square()[:, : 512 * 200]
        return power.unflatten(-1, (512, 200)).sum(-1)[..., None]

    def __call__(self, mel: Tensor) -> Tensor:
        return torch.nn.functional.normalize(mel[..., 0].float(), dim=-1)


@pytest.fixture
def model(tiny_clap: ClapFiles) -> ClapAudioModel:
    model = ClapAudioModel(tiny_clap)
    vars(model)["_audio"][:] = [Bands()]
    return model


@pytest.fixture
def corpus(write_corpus: Callable[..., Path], make_sine: Callable[..., np.ndarray]) -> str:
    bands = {"one": (3, 9, 20), "two": (5, 14, 30)}
    write_corpus(
        "sines",
        {
            track: {
                label: (label, make_sine(band, 12.0))
                for label, band in zip(("bass", "drums", "piano"), chosen, strict=True)
            }
            for track, chosen in bands.items()
        },
    )
    return "sines"


def test_query_is_the_mixs_embedding_plus_the_text(
    model: ClapAudioModel, corpus: str, layout: DataLayout, label_vectors: Any
) -> None:
    for conditioning in ("fine", "none"):
        embed_corpus(
            corpus, [model], layout, label_vectors, conditioning=conditioning, precision="fp32"
        )
        found = read_embeddings(layout, model.model_id, corpus, conditioning)
        gallery = vectors_of(found.gallery)  # unit: one sine, one band
        for row, query in zip(found.queries.to_pylist(), vectors_of(found.queries), strict=True):
            others = [
                vector
                for stem, vector in zip(found.gallery.to_pylist(), gallery, strict=True)
                if stem["track_id"] == row["track_id"] and stem["stem_id"] != row["stem_id"]
            ]
            mix = np.sum(others, axis=0) / np.sqrt(2)  # equally loud, each in its own band
            text = "music" if conditioning == "none" else row["label"]
            expected = mix + model.encode_labels([text])[0]
            np.testing.assert_allclose(query, expected / np.linalg.norm(expected), atol=1e-3)


def test_alignment_asks_with_the_instrument_too(
    model: ClapAudioModel, corpus: str, layout: DataLayout, label_vectors: Any
) -> None:
    embed_corpus(corpus, [model], layout, label_vectors, precision="fp32")
    queries = read_embeddings(layout, model.model_id, corpus).queries
    source = open_source(corpus, layout, None)
    by_model = query_chunks(source, [model], label_vectors, "fine", precision="fp32")
    asked = by_model[model.model_id]
    for row, query in zip(queries.to_pylist(), vectors_of(queries), strict=True):
        chunks = asked.vectors[asked.stem_ids == row["stem_id"]]
        np.testing.assert_allclose(unit_rows(chunks.mean(0)[None])[0], query, atol=1e-6)


def test_it_is_scored_beside_other_models(
    model: ClapAudioModel,
    corpus: str,
    layout: DataLayout,
    label_vectors: Any,
    band_model: Callable[..., Any],
) -> None:
    others = [band_model(phase="jepa"), band_model("plain")]
    models = [*others, model]
    embed_corpus(corpus, models, layout, label_vectors, precision="fp32")
    scores = evaluate_retrieval(corpus, layout, {m.name: m.model_id for m in models})
    assert (scores.path / "scores.parquet").is_file()
    assert embed_corpus(corpus, [model], layout, label_vectors, precision="fp32")[0].reused


def test_it_is_there_when_the_checkpoint_is(home: Path, tiny_clap: ClapFiles) -> None:
    layout = DataLayout(home=home)
    assert "clap-audio" not in [model.name for model in load_models(layout)]
    with pytest.raises(ArtifactError, match="stems labels fetch"):
        load_models(layout, ["clap-audio"])
    models = load_models(layout, clap=tiny_clap)
    assert models[-1].name == "clap-audio"
    assert is_baseline(models[-1])
    assert [m.model_id for m in load_models(layout, ["clap-audio"], tiny_clap)] == [
        models[-1].model_id
    ]


def test_a_clip_is_repeated_whole_padded_and_rounded_to_16_bits() -> None:
    clip = clap_clip(torch.tensor([[0.5, -0.25, 1e-6]]).repeat(1, 50_000))
    assert clip.shape == (1, round(CLIP_S * RATE_HZ))
    torch.testing.assert_close(clip[0, :150_000], clip[0, 150_000:300_000])
    assert not clip[0, 450_000:].any()
    torch.testing.assert_close(clip[0, :3] * 32767, torch.tensor([16383.0, -8191.0, 0.0]))
    with pytest.raises(ValueError, match="480001 samples"):
        clap_clip(torch.zeros(1, 480_001))


def test_what_is_louder_than_full_scale_is_made_softer_not_clipped() -> None:
    loud = torch.linspace(-2, 2, 480_000)[None]
    torch.testing.assert_close(clap_clip(loud), clap_clip(loud / 2))
