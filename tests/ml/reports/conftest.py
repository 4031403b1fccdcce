"""A home with everything a report is made from: six songs of tones, and models that never ran."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import save_file

from ml import kinds
from ml.artifacts import DataLayout, finish, write_json
from ml.corpora.corpus import open_corpus
from ml.corpora.table import build_corpus_tracks, read_corpus_tracks, tracks_of_table
from ml.labels.encoders import build_label_encoder
from ml.parquet import write_table
from ml.retrieval.embeddings.files import (
    CHUNKS,
    GALLERY,
    StemRow,
    queries_name,
    query_table,
    stem_table,
)
from ml.retrieval.evaluation.evaluate import evaluate_retrieval
from ml.retrieval.evaluation.instruments import evaluate_instruments

RATE_HZ = 16_000
LABELS = ("bass > synth bass", "drums > drum kit", "piano > grand piano", "wind > flute", "")
DIM = 16
ENCODER = build_label_encoder("minilm")
"""Loaded once."""
NOISE = {"film-nce": 1.2, "film": 2.0, "contrastive": 3.0, "untrained": 12.0, "spectrum": 6.0}
"""How far a model's queries are from their targets, in deviations of the vectors."""


def write_tones(root: Path, songs: int, seconds: float = 1.0) -> Path:
    """Songs with one tone a stem as 8-bit wav files, and the CSV that lists them."""
    lines = ["track_id,stem_id,audio,labels,split"]
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    for song in range(songs):
        folder = root / f"song-{song:02d}"
        folder.mkdir(parents=True)
        for stem, labels in enumerate(LABELS):
            tone = 0.2 * np.sin(2 * np.pi * (110 + 60 * stem + 7 * song) * time)
            soundfile.write(folder / f"{stem}.wav", tone, RATE_HZ, subtype="PCM_U8")
            lines.append(f"{folder.name},{stem},{folder.name}/{stem}.wav,{labels},test")
    (root / "corpus.csv").write_text("\n".join(lines) + "\n")
    return root / "corpus.csv"


def write_model(layout: DataLayout, name: str, *, steps: int = 20) -> None:
    """A checkpoint folder in its run, with a record of falling losses."""
    phase = "contrastive" if name in ("contrastive", "untrained") else "jepa"
    run = "contrastive-tiny-000" if phase == "contrastive" else f"{name}-tiny-000"
    folder = layout.runs / run / ("initial" if name == "untrained" else "model")
    folder.mkdir(parents=True)
    parts = ["encoder"] if phase == "contrastive" else ["encoder", "predictor", "target_encoder"]
    weights = {f"{part}.weight": np.zeros((500, 1000), np.float32) for part in parts}
    save_file(weights, folder / "model.safetensors")
    write_json(
        folder / "config.json",
        {"preset": name, "size": "tiny", "seed": 3, "steps": steps, "batch_size": 64},
    )
    manifest = {
        "format_version": kinds.MODEL.format_version,
        "model_id": f"id-{name}",
        "name": name,
        "phase": phase,
        "training_tracks": [{"corpus": "train", "track_id": f"t{i}"} for i in range(9)],
        "training_labels": [
            "bass synthesizer",
            "drum kit",
            "grand piano",
            "bass",
            "drums",
            "piano",
        ],
        "label_encoder": {"name": "minilm", "dim": 4, "fingerprint": "f"},
        "phase_1_model_id": "id-contrastive" if phase == "jepa" else None,
        "mlflow_run_id": f"0123456789-{name}",
        "run": run,
        "shards": [],
    }
    write_json(folder / "manifest.json", manifest)
    losses = ("loss",) if phase == "contrastive" else ("loss", "patch_loss", "nce_loss")
    lines = []
    for step in range(1, steps + 1):
        fall = math.exp(-3 * step / steps)
        metrics = {f"{phase}/{loss}": 1 + 4 * fall for loss in losses}
        metrics["speed/steps_per_s"] = 0.5
        if step % 5 == 0:
            metrics |= {f"{phase}/valid_{loss}": 1.2 + 4 * fall for loss in losses}
        lines.append(json.dumps({"step": step, "time": 100.0 + 2 * step, "metrics": metrics}))
    (layout.runs / run / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def point_models(layout: DataLayout, names: tuple[str, ...]) -> None:
    """Write ``models.json`` for models of ``write_model``."""
    folders = {"untrained": "contrastive-tiny-000/initial"}
    index = {name: f"runs/{folders.get(name, f'{name}-tiny-000/model')}" for name in names}
    write_json(layout.models_index, index)


def write_embeddings(layout: DataLayout, corpus: str, name: str) -> None:
    """Embeddings whose queries lie near their targets, as near as ``NOISE`` says."""
    random = np.random.default_rng(0)
    table = read_corpus_tracks(layout, corpus)
    rows = [
        StemRow(
            stem_id=stem.stem_id,
            track_id=track.track_id,
            corpus=corpus,
            split=track.split,
            label=stem.label,
            category=stem.category,
            labels=stem.labels,
            duration_s=1.0,
            audio=str(stem.files[0]),
        )
        for track in tracks_of_table(table)
        for stem in track.stems
    ]
    categories = {label: random.standard_normal(DIM) for label in LABELS}
    gallery = np.array([2 * categories[" > ".join(row.labels)] for row in rows])
    gallery += random.standard_normal(gallery.shape)
    queries = gallery + NOISE[name] * random.standard_normal(gallery.shape)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    folder = layout.embeddings(f"id-{name}", corpus)
    write_table(stem_table(rows, gallery), folder / GALLERY)
    write_table(stem_table(rows, gallery, np.zeros(len(rows))), folder / CHUNKS)
    labels = [row.label for row in rows]
    write_table(query_table(rows, labels, queries), folder / queries_name("fine"))
    finish(
        folder,
        {"corpus": corpus, "model": name, "conditionings": ["fine"]},
        kinds.EMBEDDINGS,
        summary={},
        dim=DIM,
        seen_tracks=[],
    )


def fill_home(home: Path, *, songs: int = 6, seconds: float = 1.0) -> DataLayout:
    """Corpus, models, embeddings and scores."""
    layout = DataLayout(home=home)
    csv = write_tones(home / "tones", songs, seconds)
    build_corpus_tracks("tones", open_corpus("manifest", csv), layout)
    trained = tuple(name for name in NOISE if name != "spectrum")
    for name in trained:
        write_model(layout, name)
    point_models(layout, trained)
    for name in NOISE:
        write_embeddings(layout, "tones", name)
    evaluate_retrieval("tones", layout, {name: f"id-{name}" for name in NOISE}, resamples=100)
    evaluate_instruments("tones", layout, ENCODER, resamples=100)
    return layout


@pytest.fixture
def filled(tmp_path: Path) -> DataLayout:
    return fill_home(tmp_path / "home")


@pytest.fixture
def add_model() -> Callable[..., None]:
    return write_model


@pytest.fixture
def set_models() -> Callable[[DataLayout, tuple[str, ...]], None]:
    return point_models
