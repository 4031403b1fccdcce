"""The predecessor's protocol against its equations, stem by stem, with small untrained models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ml.artifacts import ArtifactError, DataLayout
from ml.models.config import StemJepaConfig
from ml.models.predictor import PredictorConfig
from ml.models.stem_jepa import StemJepa
from ml.models.vit import ViTConfig
from ml.retrieval.embeddings.build import embed_predecessor, models_with_encoder
from ml.retrieval.embeddings.files import MEANS, Embeddings, read_predecessor, vectors_of
from ml.retrieval.embeddings.source import open_source, read_track
from ml.retrieval.evaluation.evaluate import evaluate_retrieval
from ml.retrieval.evaluation.ranks import target_ranks
from ml.scores.files import BY_ENCODER, read_scores
from ml.tracks import Track

DIM = 16
CHUNK_FRAMES = 48


def build_model(name: str = "film", *, has_predictor: bool = True, seed: int = 0) -> StemJepa:
    """Chunks of 0.5 s: 50 frames, of which 48 are a multiple of the patch."""
    torch.manual_seed(seed)
    predictor = PredictorConfig(dim=DIM, hidden=24, layers=3, condition_dim=40)
    config = StemJepaConfig(
        encoder=ViTConfig(dim=DIM, layers=1, heads=2),
        predictor=predictor if has_predictor else None,
        chunk_s=0.5,
    )
    model = StemJepa(config)
    if model.target_encoder is not None:  # trained apart from the encoder
        for weights in model.target_encoder.parameters():
            weights.data += 0.02 * torch.randn_like(weights)
    model.manifest = {"name": name, "model_id": f"id-{name}"}
    return model.eval()


@pytest.fixture
def tracks(write_corpus: Any, make_sine: Any, layout: DataLayout) -> list[Track]:
    """One track of three stems, the second shorter; one of a single stem; one of two."""
    half = np.concatenate([make_sine(9, 0.6), np.zeros(8_000, np.float32)])
    write_corpus(
        "sines",
        {
            "a": {
                "low": ("bass", make_sine(3, 1.3)),
                "mid": ("guitar", half),
                "high": ("piano", make_sine(20, 1.3, level=0.1)),
            },
            "b": {"only": ("drums", make_sine(30, 0.9))},
            "c": {"low": ("bass", make_sine(5, 1.3)), "high": ("", make_sine(15, 1.3))},
        },
    )
    return list(open_source("sines", layout, None).tracks)


def whole_file(model: StemJepa, waveform: np.ndarray, encode: Any) -> torch.Tensor:
    """The protocol as its authors' script has it, for one waveform: (5 · dim,)."""
    mel = model.log_mel(torch.from_numpy(waveform)[None])
    mel = F.pad(mel, (0, -mel.shape[-1] % 16))
    total, count = torch.zeros(5 * DIM), 0
    for chunk in mel.split(CHUNK_FRAMES, dim=-1):
        patches = encode(chunk)[0]  # (freq_patch, time_patch, dim)
        total += patches.sum(1).reshape(-1)
        count += patches.shape[1]
    return F.layer_norm(total / count, (5 * DIM,))


def predicted(model: StemJepa, condition: np.ndarray) -> Any:
    def encode(mel: torch.Tensor) -> torch.Tensor:
        patches = model.encoder(mel)
        assert model.predictor is not None
        found = model.predictor(patches.flatten(1, 2), torch.from_numpy(condition)[None])
        return found.unflatten(1, patches.shape[1:3])

    return encode


def by_stem(table: Any) -> dict[str, np.ndarray]:
    return dict(zip(table["stem_id"].to_pylist(), vectors_of(table), strict=True))


def unit(vector: torch.Tensor) -> np.ndarray:
    return F.normalize(vector, dim=0).numpy()


def embed(layout: DataLayout, models: list[StemJepa], vectors: Any, **options: Any) -> Any:
    return embed_predecessor("sines", models, layout, vectors, precision="fp32", **options)


@torch.inference_mode()
def test_equals_the_published_script(
    tracks: list[Track], layout: DataLayout, label_vectors: dict[str, np.ndarray]
) -> None:
    model = build_model()
    (artifact,) = embed(layout, [model], label_vectors, batch_chunks=2)
    found = read_predecessor(layout, model.model_id, "sines")
    galleries = {suffix: by_stem(embeddings.gallery) for suffix, embeddings in found.items()}
    queries = by_stem(found[""].queries)
    for track in tracks:
        audio = read_track(track, model.rate_hz)
        for i, stem in enumerate(track.stems):
            for suffix, encoder in (("", model.target_encoder), (BY_ENCODER, model.encoder)):
                expected = unit(whole_file(model, audio.stems[i], encoder))
                assert galleries[suffix][stem.stem_id] == pytest.approx(expected, abs=2e-5)
            if len(track.stems) > 1:
                mix = np.delete(audio.stems, i, axis=0).sum(0)
                encode = predicted(model, label_vectors[stem.label])
                expected = unit(whole_file(model, mix, encode))
                assert queries[stem.stem_id] == pytest.approx(expected, abs=2e-5)
    assert set(queries) == {"a/low", "a/mid", "a/high", "c/low", "c/high"}
    assert artifact.summary["gallery"] == 6
    assert artifact.summary["queries"] == 5


@torch.inference_mode()
def test_ranks_equal_those_of_the_euclidean_distance_after_layer_norm() -> None:
    random = np.random.default_rng(0)
    raw = random.normal(1.0, 0.5, size=(60, 80)).astype(np.float32)
    targets = random.integers(0, 60, 25)
    asked = raw[targets] + 2.5 * random.normal(size=(25, 80)).astype(np.float32)
    query, stem = (F.layer_norm(torch.from_numpy(x).double(), (80,), eps=0) for x in (asked, raw))
    distances = torch.cdist(query, stem).numpy()
    expected = 1 + (distances < distances[np.arange(25), targets][:, None]).sum(1)
    asked, raw = (part - part.mean(1, keepdims=True) for part in (asked, raw))
    assert target_ranks(asked, raw, targets).tolist() == expected.tolist()
    assert len(set(expected)) > 3


@pytest.mark.usefixtures("tracks")
def test_the_paper_ranks_means_over_patches_by_euclidean_distance(
    layout: DataLayout, label_vectors: dict[str, np.ndarray]
) -> None:
    model = build_model()
    embed(layout, [model], label_vectors)
    artifact = evaluate_retrieval("sines", layout, {"film": model.model_id}, protocol="paper")
    assert artifact.path == layout.scores("retrieval-paper", "sines")
    own = read_scores(layout, evaluation="retrieval-paper")
    rows = {(row["model"], row["metric"]): row["value"] for row in own}
    found = read_predecessor(layout, model.model_id, "sines", before=MEANS)
    for suffix, embeddings in found.items():
        stems, asked = embeddings.gallery, embeddings.queries
        asked_rows, rows_there = (torch.from_numpy(vectors_of(x)).double() for x in (asked, stems))
        distances = torch.cdist(asked_rows, rows_there)
        places = stems["stem_id"].to_pylist()
        targets = [places.index(stem) for stem in asked["stem_id"].to_pylist()]
        ranks = 1 + (distances < distances[range(5), targets][:, None]).sum(1).double()
        expected = 100 * float(ranks.mean()) / len(stems)
        assert rows[f"film{suffix}", "normalized_rank_mean"] == pytest.approx(expected)


@pytest.mark.usefixtures("tracks")
def test_phase_1_has_one_gallery_and_queries_of_the_encoder(
    layout: DataLayout, label_vectors: dict[str, np.ndarray]
) -> None:
    model = build_model("contrastive", has_predictor=False)
    embed(layout, [model], label_vectors)
    found = read_predecessor(layout, model.model_id, "sines")
    assert list(found) == [""]
    # The mix that lacks c/low is c/high: the same waveform, the same encoder.
    queries, gallery = by_stem(found[""].queries), by_stem(found[""].gallery)
    assert queries["c/low"] == pytest.approx(gallery["c/high"], abs=1e-5)


@pytest.mark.usefixtures("tracks")
def test_only_what_is_stale_is_computed_and_other_queries_are_kept(
    layout: DataLayout, label_vectors: dict[str, np.ndarray]
) -> None:
    first, second = build_model("one"), build_model("two", seed=1)
    embed(layout, [first], label_vectors)
    assert [a.reused for a in embed(layout, [first, second], label_vectors)] == [True, False]
    embed(layout, [first], label_vectors, conditionings=("none",))
    for conditioning in ("fine", "none"):
        assert read_predecessor(layout, "id-one", "sines", conditioning)
        again = embed(layout, [first], label_vectors, conditionings=(conditioning,))
        assert again[0].reused
    with pytest.raises(ArtifactError, match="--conditioning coarse"):
        read_predecessor(layout, "id-one", "sines", "coarse")


@pytest.mark.usefixtures("tracks")
def test_scores_are_an_evaluation_of_their_own_with_both_galleries(
    layout: DataLayout, label_vectors: dict[str, np.ndarray]
) -> None:
    models = [build_model("contrastive", has_predictor=False), build_model("film")]
    embed(layout, models, label_vectors)
    names = {model.name: model.model_id for model in models}
    artifact = evaluate_retrieval("sines", layout, names, protocol="predecessor")
    assert artifact.path == layout.scores("retrieval-predecessor", "sines")
    beside = {f"retrieval-predecessor-swapped{loss}" for loss in ("", "-loss")}
    rows = read_scores(layout)
    assert {row["evaluation"] for row in rows} == {"retrieval-predecessor", *beside}
    rows = [row for row in rows if row["evaluation"] not in beside]
    looked_up = {"label", "label+contrastive"}
    assert {row["model"] for row in rows} == looked_up | {
        "contrastive",
        "film",
        "film (encoder gallery)",
    }
    found: Embeddings = read_predecessor(layout, "id-film", "sines")[BY_ENCODER]
    place = {stem: i for i, stem in enumerate(found.gallery["stem_id"].to_pylist())}
    targets = np.array([place[stem] for stem in found.queries["stem_id"].to_pylist()])
    ranks = target_ranks(vectors_of(found.queries), vectors_of(found.gallery), targets)
    (recall,) = (
        row["value"]
        for row in rows
        if (row["model"], row["metric"]) == ("film (encoder gallery)", "recall@1")
    )
    assert recall == pytest.approx(100 * (ranks == 1).mean())


def test_bad_input(
    tracks: list[Track],
    layout: DataLayout,
    label_vectors: dict[str, np.ndarray],
    band_model: Any,
) -> None:
    assert tracks
    with pytest.raises(ValueError, match="bands"):
        models_with_encoder([band_model()])
    with pytest.raises(ValueError, match="'rough'"):
        embed(layout, [build_model()], label_vectors, conditionings=("rough",))
    with pytest.raises(ArtifactError, match="--protocol predecessor --corpus sines"):
        read_predecessor(layout, "id-film", "sines")
    with pytest.raises(ValueError, match="no model"):
        evaluate_retrieval("sines", layout, {}, protocol="predecessor")
