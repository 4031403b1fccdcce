"""What a query costs: in a program that has everything loaded, from the shell, and at the page.

A home is made for it: a model of random weights, a table of random vectors, one mix of noise. What
is found means nothing; what it takes does. The page's server is a process of its own, asked over
loopback.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile
import torch

from ml.benchmarks.measure import Measure, cost_of, seconds_of
from ml.corpora.corpus import open_corpus
from ml.corpora.label_embeddings import build_label_embeddings
from ml.corpora.table import build_corpus_tracks
from ml.labels.encoder import described_encoder
from ml.labels.encoders import build_label_encoder
from ml.models.pretrained import save_checkpoint
from ml.models.stem_jepa import StemJepa
from ml.retrieval.champion.champion import write_champion
from ml.retrieval.embeddings.files import StemRow, stem_table, unit_rows
from ml.retrieval.queries.mix import read_chunks
from ml.retrieval.queries.retriever import Retrievers, StemRetriever
from ml.retrieval.tables.database import database_uri
from ml.retrieval.tables.publish import CHUNK_TABLE, STEM_TABLE, merge_corpus
from ml.settings import Settings, load_settings
from ml.tracks import MUSIC
from ml.training.config import training_config

STEMS, CHUNKS, K = 1000, 8, 10
MIX_S, MIX_HZ = 30, 44_100
INSTRUMENT, NEW_INSTRUMENT = "acoustic guitar", "a strummed twelve-string"
ROUNDS, COLD_ROUNDS = 30, 3
SENT, AT_ONCE, AT_ONCE_ROUNDS = 7, 20, 5
"""Mixes dropped on the page; queries at once, so often."""
_STOP_S = 30
_CORPUS = "noise"


def measure() -> Iterator[Measure]:
    """Measure queries by a model of the tiny size: warm, cold, and at the page."""
    with tempfile.TemporaryDirectory() as folder:
        settings, mix = _make_home(Path(folder))
        retriever = Retrievers(settings).current()
        retriever.query(mix, INSTRUMENT, K)
        yield _warm(retriever, mix)
        for words, instrument in (("of the home", INSTRUMENT), ("it never met", NEW_INSTRUMENT)):
            yield _cold(settings, mix, words, instrument)
        with _server(settings.home) as url:
            yield _first_result(url)
            yield _concurrent(url)


def _warm(retriever: StemRetriever, mix: Path) -> Measure:
    model = retriever.model
    assert isinstance(model, StemJepa)
    chunks = torch.from_numpy(read_chunks(mix, model.rate_hz, model.chunk_s).waveforms)
    with torch.inference_mode():
        mel = model.log_mel(chunks)
        encoder_ms = _median_ms(lambda: model.encoder(mel))
    whole_ms = _median_ms(lambda: retriever.query(mix, INSTRUMENT, K))
    return Measure(
        name="query, warm, beside the encoder",
        value=whole_ms - encoder_ms,
        unit="ms",
        asked=150.0,
        lower_is_better=True,
        note=f"median of {ROUNDS}: {whole_ms:.1f} ms whole, the encoder {encoder_ms:.1f}; "
        f"mix of {MIX_S} s, {MIX_HZ} Hz stereo WAV, {STEMS} stems of {CHUNKS} chunks, k = {K}",
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
    return 1000 * median(seconds_of(step) for _ in range(ROUNDS))


def _make_home(home: Path) -> tuple[Settings, Path]:
    """Make a home with a champion, its table and the vectors of its labels; and a mix."""
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
    described = described_encoder(encoder)
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


def _first_result(url: str) -> Measure:
    """From the drop of a mix, one that the server has not met, to the ranked stems."""
    taken = []
    for seed in range(SENT):
        mix = _wav(np.random.default_rng(seed).normal(0, 0.1, (MIX_S * MIX_HZ, 2)))
        taken.append(seconds_of(lambda mix=mix: _search(url, _ask(f"{url}api/mixes", mix)["id"])))
    return Measure(
        name=f"page: first result after dropping a {MIX_S} s mix",
        value=max(taken),
        unit="s",
        asked=3.0,
        lower_is_better=True,
        note=f"the slowest of {SENT}, median {median(taken):.2f} s; {MIX_HZ} Hz stereo WAV: sent, "
        f"decoded in a new process, asked with; {STEMS} stems, k = {K}",
    )


def _concurrent(url: str) -> Measure:
    mix = _ask(f"{url}api/mixes", _wav(np.random.default_rng(0).normal(0, 0.1, MIX_S * MIX_HZ)))
    with ThreadPoolExecutor(AT_ONCE) as pool:  # an answer that is no success raises
        taken = list(
            pool.map(
                lambda _: seconds_of(lambda: _search(url, mix["id"])),
                range(AT_ONCE_ROUNDS * AT_ONCE),
            )
        )
    return Measure(
        name=f"page: {AT_ONCE} queries at once, p95",
        value=1000 * float(np.percentile(taken, 95)),
        unit="ms",
        lower_is_better=True,
        note=f"{len(taken)} queries of {AT_ONCE} clients, none refused, each embeds the {MIX_S} s "
        f"mix anew; median {1000 * median(taken):.0f} ms",
    )


@contextlib.contextmanager
def _server(home: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "ml.cli.main", "--home", str(home), "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            if "http://" not in line:
                raise RuntimeError(f"the server did not start: {line}")
            yield next(word for word in line.split() if word.startswith("http://"))
        finally:
            server.terminate()
            try:
                server.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()


def _search(url: str, mix_id: str) -> dict[str, Any]:
    words = INSTRUMENT.replace(" ", "+")
    return _ask(f"{url}api/search?mix={mix_id}&instrument={words}&k={K}")


def _ask(url: str, body: bytes | None = None) -> dict[str, Any]:
    request = urllib.request.Request(url, data=body)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def _wav(audio: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, MIX_HZ, format="WAV", subtype="PCM_16")
    return file.getvalue()
