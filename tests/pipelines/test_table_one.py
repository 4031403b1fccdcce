"""Table I at toy size, on corpora in the layouts of MoisesDB and MUSDB18-HQ, and once more."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ml.artifacts import read_json
from ml.scores.files import read_scores
from ml.settings import load_settings
from ml.training.models import read_models
from pipelines import table_one

RATE_HZ = 44_100
CONFIG = """
corpora:
  moises: {kind: moisesdb, root: moisesdb}
  musdb: {kind: musdb18, root: musdb18hq}
training:
  overrides: {batch_size: 4, model.encoder.layers: 1, model.chunk_s: 2.0, pairs.chunk_s: 2.0}
evaluation: {bootstrap_resamples: 100}
"""
MOISES = {
    "vocals": "lead male singer",
    "guitar": "acoustic guitar",
    "bass": "bass guitar",
    "drums": "full acoustic drumkit",
}
MUSDB = ("drums", "bass", "other", "vocals")
CHOSEN = ["--train", "moises", "--evaluate", "musdb", "--steps", "2", "--workers", "1"]
MODELS = {"contrastive", *table_one.PRESETS}


def part(seed: int) -> np.ndarray:
    """Six seconds of a pulsing tone, stereo."""
    time_s = np.arange(6 * RATE_HZ) / RATE_HZ
    pulse = 0.6 + 0.4 * np.sin(2 * np.pi * (1 + seed % 3) * time_s)
    tone = 0.1 * pulse * np.sin(2 * np.pi * 55 * (2 + seed) * time_s)
    return np.stack([tone, tone], axis=1).astype(np.float32)


def write(path: Path, waveform: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, RATE_HZ, subtype="PCM_16")


def write_moisesdb(root: Path, songs: int) -> None:
    for song in range(songs):
        folder, stems = root / "moisesdb_v0.1" / f"0000-{song}", []
        for i, (name, kind) in enumerate(MOISES.items()):
            write(folder / name / f"file-{i}.wav", part(7 * song + i))
            track = {"id": f"file-{i}", "trackType": kind, "extension": "wav", "has_bleed": False}
            stems.append({"stemName": name, "tracks": [track]})
        described = {"song": f"Song {song}", "artist": "Moises", "genre": "rock", "stems": stems}
        (folder / "data.json").write_text(json.dumps(described))


def write_musdb18(root: Path) -> None:
    for song, split in enumerate(("train", "test", "test")):
        folder = root / split / f"Band - Piece {song}"
        parts = {name: part(31 + 5 * song + i) for i, name in enumerate(MUSDB)}
        for name, waveform in {**parts, "mixture": np.sum(list(parts.values()), axis=0)}.items():
            write(folder / f"{name}.wav", waveform)


@pytest.mark.slow
def test_all_rows_by_all_protocols_from_one_phase_1_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_moisesdb(tmp_path / "moisesdb", songs=4)
    write_musdb18(tmp_path / "musdb18hq")
    (tmp_path / "config.yaml").write_text(CONFIG)
    assert table_one.main(["--home", str(tmp_path), *CHOSEN]) == 0
    said = capsys.readouterr().out
    layout = load_settings(tmp_path).layout
    models = read_models(layout)
    phase_1 = read_json(models["contrastive"] / "manifest.json")["model_id"]
    for name in table_one.PRESETS:
        begun = read_json(models[name] / "manifest.json")["phase_1_model_id"]
        assert begun == (None if name in ("class", "clap") else phase_1)
    rows = read_scores(layout, corpus="musdb")
    for protocol in ("", "-predecessor", "-paper"):
        table = [row for row in rows if row["evaluation"] == f"retrieval{protocol}"]
        assert {row["conditioning"] for row in table} == {"fine", "coarse"}
        assert {row["model"] for row in table} >= MODELS
        assert {row["n_gallery"] for row in table} == {12}  # of all splits
        assert f"retrieval{protocol}: musdb, coarse, 12 queries" in said
    assert "film (published: 600 queries of 600 stems)" in said
    assert "Not as in the paper: labels by minilm, not clap, size tiny, overrides" in said
    assert not (layout.lancedb / "champion.json").exists()
    made = {path: path.stat().st_mtime_ns for path in layout.home.glob("*/*/*/manifest.json")}
    assert table_one.main(["--home", str(tmp_path), *CHOSEN]) == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert "retrieval-paper: musdb, fine, 12 queries" in capsys.readouterr().out
