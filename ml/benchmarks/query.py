"""What a query costs: in a program that has everything loaded, from the shell, and twenty at once.

A home is made for it: a model of random weights, a table of random vectors, one mix of noise. What
is found means nothing; what it takes does.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile
import torch

from ml.benchmarks.measure import Measure, cost_of
from ml.corpora.corpus import open_corpus
from ml.corpora.label_embeddings import build_label_embeddings
from ml.corpora.table import build_corpus_tracks
from ml.labels.encoders import build_label_encoder
from ml.models.stem_jepa import StemJepa
from ml.retrieval.champion.champion import write_champion
from ml.retrieval.embeddings.files import StemRow, stem_table, unit_rows
from ml.retrieval.queries.candidates import place_with_mix
from ml.retrieval.queries.home import Retrievers
from ml.retrieval.queries.mix import query_vectors, read_chunks
from ml.retrieval.queries.retriever import StemRetriever
from ml.retrieval.tables.database import database_uri
from ml.retrieval.tables.publish import CHUNK_TABLE, STEM_TABLE, merge_corpus
from ml.retrieval.tables.search import TableRows
from ml.settings import Settings, load_settings
from ml.tracks import MUSIC
from ml.training.checkpoints import save_checkpoint
from ml.training.config import training_config

STEMS, CHUNKS, K = 1000, 8, 10
MIX_S, MIX_HZ = 30, 44_100
INSTRUMENT, NEW_INSTRUMENT = "acoustic guitar", "a strummed twelve-string"
ROUNDS, COLD_ROUNDS, AT_ONCE = 30, 3, 20
_CORPUS = "noise"


def measure() -> Iterator[Measure]:
    """Warm, cold and concurrent queries by a model of the tiny size."""
    with tempfile.TemporaryDirectory() as folder:
        settings, mix = make_home(Path(folder))
        retriever = Retrievers(settings).current()
        retriever.query(mix, INSTRUMENT, K)
        yield _warm(retriever, mix)
        yield _concurrent(Retrievers(settings), mix)
        for words, instrument in (("of the home", INSTRUMENT), ("it never met", NEW_INSTRUMENT)):
            yield _cold(settings, mix, words, instrument)


def _warm(retriever: StemRetriever, mix: Path) -> Measure:
    def ask() -> None:
        retriever.query(mix, INSTRUMENT, K)

    whole, cpu_s = _median_ms(ask), cost_of(ask, repeats=ROUNDS).cpu_s
    parts = _parts(retriever, mix)
    split = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
    return Measure(
        name="query, warm, beside the encoder",
        value=whole - parts["encoder"],
        unit="ms",
        asked=150.0,
        lower_is_better=True,
        note=f"median of {ROUNDS}: {whole:.1f} ms whole ({1000 * cpu_s:.1f} of CPU); {split}; "
        f"mix of {MIX_S} s, {MIX_HZ} Hz stereo WAV, {STEMS} stems of {CHUNKS} chunks, k = {K}",
    )


def _parts(retriever: StemRetriever, mix: Path) -> dict[str, float]:
    """What each step takes alone, in ms."""
    model, rows = retriever.model, TableRows(retriever.tables.uri)
    assert isinstance(model, StemJepa)
    predictor = model.predictor
    assert predictor is not None
    chunks = read_chunks(mix, model.rate_hz, model.chunk_s)
    condition = retriever.encode_texts([INSTRUMENT])[0]
    batch = torch.from_numpy(chunks.waveforms)
    with torch.inference_mode():
        mel = model.log_mel(batch)
        patches = model.encoder(mel)
    given = torch.from_numpy(condition)[None].expand(len(batch), -1)
    asked = query_vectors(model, chunks, condition, 0)
    hits = retriever.tables.search(asked.mean, K)
    keys = [(hit.row["corpus"], hit.row["stem_id"]) for hit in hits]

    def place() -> None:
        for found in rows.chunks(keys).values():
            place_with_mix(found, asked)

    steps: dict[str, Callable[[], Any]] = {
        "reading": lambda: read_chunks(mix, model.rate_hz, model.chunk_s),
        "log-mel": lambda: model.log_mel(batch),
        "encoder": lambda: model.encoder(mel),
        "predictor": lambda: model.predict_patches(patches, given, None),
        "search": lambda: retriever.tables.search(asked.mean, K),
        "best place": place,
    }
    with torch.inference_mode():
        return {name: _median_ms(step) for name, step in steps.items()}


def _concurrent(retrievers: Retrievers, mix: Path) -> Measure:
    def ask(_: int) -> float:
        start = time.perf_counter()
        retrievers.current().query(mix, INSTRUMENT, K)
        return 1000 * (time.perf_counter() - start)

    ask(0)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        taken = list(pool.map(ask, range(5 * AT_ONCE)))
    return Measure(
        name=f"query, {AT_ONCE} at once, p95",
        value=float(np.percentile(taken, 95)),
        unit="ms",
        lower_is_better=True,
        note=f"{len(taken)} queries of {AT_ONCE} threads, the champion resolved for each; median "
        f"{median(taken):.0f} ms",
    )


def _cold(settings: Settings, mix: Path, words: str, instrument: str) -> Measure:
    command = [sys.executable, "-m", "ml.cli.main", "--home", str(settings.home), "query"]
    command += [str(mix), "--instrument", instrument, "-k", str(K), "--json"]

    def ask() -> None:
        subprocess.run(command, check=True, capture_output=True)

    taken = min((cost_of(ask) for _ in range(COLD_ROUNDS)), key=lambda cost: cost.wall_s)
    return Measure(
        name=f"stems query from the shell, an instrument {words}",
        value=taken.wall_s,
        unit="s",
        asked=8.0,
        lower_is_better=True,
        note=f"best of {COLD_ROUNDS}, {taken.cpu_s:.1f} s of CPU; the label encoder is loaded for "
        f"new words only",
    )


def _median_ms(step: Callable[[], Any]) -> float:
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        step()
        taken.append(1000 * (time.perf_counter() - start))
    return median(taken)


def make_home(home: Path) -> tuple[Settings, Path]:
    """A home with a champion, its table and the vectors of its labels; and a mix."""
    settings = load_settings(home)
    layout, encoder = settings.layout, build_label_encoder("minilm")
    mix = home / "mix.wav"
    soundfile.write(mix, _noise(MIX_S * MIX_HZ, 2), MIX_HZ, subtype="PCM_16")
    (home / "noise.csv").write_text(f"track_id,audio,labels\none,mix.wav,guitar > {INSTRUMENT}\n")
    build_corpus_tracks(_CORPUS, open_corpus("manifest", home / "noise.csv"), layout)
    build_label_embeddings(_CORPUS, layout, encoder)
    torch.manual_seed(0)
    config = training_config("film-nce", condition_dim=encoder.dim)
    model = StemJepa(config.model)
    described = {"name": encoder.name, "dim": encoder.dim, "fingerprint": encoder.fingerprint}
    origin = {"name": "film-nce", "label_encoder": described, "training_labels": [INSTRUMENT]}
    checkpoint = layout.runs / "noise" / "model"
    model_id = save_checkpoint(checkpoint, model, config, origin=origin)["model_id"]
    write_champion(layout, model_id, checkpoint)
    _publish(database_uri(layout, model_id), model_id, model.dim)
    return settings, mix


def _publish(uri: str, model_id: str, dim: int) -> None:
    rows = [
        StemRow(
            stem_id=f"track-{i // 5:03}/{i % 5}",
            track_id=f"track-{i // 5:03}",
            corpus=_CORPUS,
            split="test",
            label=INSTRUMENT if i % 2 else MUSIC,
            category="guitar" if i % 2 else None,
            labels=("guitar", INSTRUMENT) if i % 2 else (),
            duration_s=64.0,
            audio="mix.wav",
        )
        for i in range(STEMS)
    ]
    stems = stem_table(rows, unit_rows(_noise(STEMS, dim)))
    starts = np.tile(8.0 * np.arange(CHUNKS), STEMS)
    chunks = stem_table(
        [row for row in rows for _ in range(CHUNKS)], unit_rows(_noise(len(starts), dim)), starts
    )
    for name, table in ((CHUNK_TABLE, chunks), (STEM_TABLE, stems)):
        merge_corpus(uri, name, table, corpus=_CORPUS, model_id=model_id)


def _noise(*shape: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
