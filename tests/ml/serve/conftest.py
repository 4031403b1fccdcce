"""A home whose champion has a table of songs and of noises, and clients of its server."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient

from ml.corpora.corpus import open_corpus
from ml.corpora.label_embeddings import build_label_embeddings, read_label_vectors
from ml.corpora.table import build_corpus_tracks
from ml.labels.encoders import build_label_encoder
from ml.models.stem_jepa import load_model
from ml.retrieval.champion.champion import write_champion
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.queries.retriever import Retrievers
from ml.retrieval.tables.publish import hear_gallery, publish_corpus
from ml.serve.app import bind, build_app, server_of, url_of
from ml.serve.limits import ServeLimits
from ml.settings import Settings, load_settings
from ml.training.models import find_checkpoint

RATE_HZ = 44_100
LIMITS = ServeLimits(upload_bytes=8_000_000, mix_s=60.0, mixes=4)
CONFIG = """corpora:
  demo: {{kind: demo, root: corpora/demo}}
  noises: {{kind: manifest, root: {csv}}}
"""


def noise(seed: int, seconds: float = 6.0, channels: int = 2) -> np.ndarray:
    """(samples, channel): nowhere like itself, so a piece of it says where it is from."""
    random = np.random.default_rng(seed)
    return 0.2 * random.standard_normal((round(seconds * RATE_HZ), channels)).astype(np.float32)


def wav_bytes(audio: np.ndarray, rate_hz: int = RATE_HZ) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, rate_hz, format="WAV", subtype="PCM_16")
    return file.getvalue()


@pytest.fixture(scope="session")
def served_home(shared_home: Path, built_once: Callable[..., Path]) -> Path:
    """``film`` is champion; its table has ``demo`` and two songs of stereo noises. Read only."""
    return built_once("served-home", partial(_build_home, shared_home))


def _build_home(shared_home: Path, home: Path) -> None:
    shutil.copytree(shared_home, home)
    csv = _write_noises(home / "corpora" / "noises")
    (home / "config.yaml").write_text(CONFIG.format(csv=csv))
    settings = load_settings(home)
    layout = settings.layout
    checkpoint = find_checkpoint(layout, "film")
    model = load_model(checkpoint)
    for name in ("demo", "noises"):
        entry = settings.corpus(name)
        build_corpus_tracks(name, open_corpus(entry.kind, entry.root), layout)
        build_label_embeddings(name, layout, build_label_encoder("minilm"))
        embed_corpus(name, [model], layout, read_label_vectors(layout, name), precision="fp32")
        hear_gallery(layout, [model.model_id], name)
        publish_corpus(layout, model.model_id, name)
    write_champion(layout, model.model_id, checkpoint)


def _write_noises(root: Path) -> Path:
    lines = ["track_id,stem_id,audio,labels"]
    for track in range(2):
        for stem, label in enumerate(("drums > drum kit", "bass > bass guitar", "piano")):
            path = root / f"song {track}" / f"stem {stem}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, noise(10 * track + stem), RATE_HZ, subtype="PCM_16")
            lines.append(f"song {track},{stem},{path.relative_to(root)},{label}")
    (root / "corpus.csv").write_text("\n".join(lines) + "\n")
    return root / "corpus.csv"


@pytest.fixture(scope="session")
def served_settings(served_home: Path) -> Settings:
    return load_settings(served_home)


@pytest.fixture(scope="session")
def retrievers(served_settings: Settings) -> Retrievers:
    return Retrievers(served_settings)


@pytest.fixture(scope="module")
def client(served_settings: Settings, retrievers: Retrievers) -> Iterator[TestClient]:
    app = build_app(served_settings, retrievers, limits=LIMITS)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def mix_id(client: TestClient) -> str:
    """Of four seconds of noise that were sent."""
    answer = client.post("/api/mixes", content=wav_bytes(noise(99, 4.0)), params={"name": "n.wav"})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


@pytest.fixture(scope="module")
def live_url(served_settings: Settings, retrievers: Retrievers) -> Iterator[str]:
    """Of a real server on a free port of loopback."""
    listener = bind("127.0.0.1", 0)
    app = build_app(served_settings, retrievers, limits=LIMITS)
    server = server_of(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    listener.listen(128)
    yield url_of("127.0.0.1", listener.getsockname()[1])
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def make_noise() -> Callable[..., np.ndarray]:
    return noise


@pytest.fixture
def make_wav() -> Callable[..., bytes]:
    return wav_bytes
