"""What many tests need, built once for all workers: a small demo corpus, its shards, tiny runs."""

import shutil
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import torch
from filelock import FileLock

from ml import kinds
from ml.labels.clap import ClapText
from ml.labels.clap_files import ClapFiles

SMALL = {
    "steps": 4,
    "batch_size": 4,
    "model.encoder.dim": 32,
    "model.encoder.layers": 1,
    "model.encoder.heads": 2,
    "model.predictor.dim": 32,
    "model.predictor.hidden": 32,
    "model.chunk_s": 2.0,
    "pairs.chunk_s": 2.0,
}
"""Overrides that make a run of the tiny size take a second."""
CONTRASTIVE = {name: value for name, value in SMALL.items() if "predictor" not in name}


MIDI_TICKS, MIDI_RATE_HZ = 480, 22_050
"""Ticks a beat of our MIDI files; rate of our soundfonts."""


CHROMIUM_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update"
)


LONGEST = (
    *("test_dagster_dev.py", "test_train_models.py", "test_end_to_end.py"),
    *("test_retraining_end_to_end.py", "test_table_one.py", "test_server.py", "test_cluster.py"),
)
"""Files that take minutes, by what one process needs for them."""


def pytest_configure():
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]):
    """The longest begin first: at the end no worker is left alone with one of them."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONGEST)))


@pytest.fixture(autouse=True)
def no_remembered_stores() -> None:
    """fsspec keeps connections by their arguments; the endpoint is in the environment."""
    if "s3fs" in sys.modules:
        sys.modules["s3fs"].S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium through playwright."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """URL of an S3-compatible store in this process."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def s3_credentials(s3_server: str) -> dict[str, str]:
    """Variables that lead there."""
    return {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture
def s3(s3_server: str, s3_credentials: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Client of a store that holds one empty bucket, ``stems``; the environment leads there."""
    import boto3
    import requests

    requests.post(f"{s3_server}/moto-api/reset", timeout=60)
    for name, value in s3_credentials.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="stems")
    return client


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives a folder by its name; whichever worker asks first builds it, at that very path."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if base.name.startswith("popen-") else base

    def folder(name: str, build: Callable[[Path], object]) -> Path:
        path, done = base / name, base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)
                build(path)
                done.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def shared_home(built_once: Callable[..., Path]) -> Path:
    """A STEMS_HOME with a small demo corpus, its tables and shards, and three tiny models.

    Read only; a test that writes takes ``home``.
    """
    return built_once("shared-home", _build_home)


@pytest.fixture
def small() -> dict[str, Any]:
    """Overrides of a phase 1 with the shape of the one in ``shared_home``, six steps long."""
    return CONTRASTIVE | {"steps": 6}


@pytest.fixture
def small_jepa() -> dict[str, Any]:
    """Overrides of a phase 2 that fits the phase 1 in ``shared_home``, six steps long."""
    return SMALL | {"steps": 6, "optimizer.learning_rate": 1e-3}


@pytest.fixture
def home(shared_home: Path, tmp_path: Path) -> Path:
    """A copy of ``shared_home`` to write to."""
    return shutil.copytree(shared_home, tmp_path / "home")


@pytest.fixture(scope="session")
def untrained_starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose run ``random`` is a tiny ``two-part`` of 64 mel bins, and its ``package``.

    Read only. ``package`` is what ``ml.starter`` makes of the run.
    """
    from ml.labels.encoder import described_encoder
    from ml.labels.encoders import build_label_encoder
    from ml.models.pretrained import save_checkpoint
    from ml.models.stem_jepa import StemJepa
    from ml.settings import load_settings
    from ml.starter.make import make_starter
    from ml.training.config import training_config

    settings = load_settings(tmp_path_factory.mktemp("starter"))
    bins = {"model.log_mel.mel_bins": 64, "model.encoder.mel_bins": 64}
    config = training_config("two-part", overrides=SMALL | bins)
    torch.manual_seed(0)
    model = StemJepa(config.model)
    model.log_mel.mean += 0.123
    origin = {
        "name": "two-part",
        "label_encoder": described_encoder(build_label_encoder("minilm")),
        "training_tracks": [],
        "training_labels": ["bass guitar"],
    }
    save_checkpoint(settings.layout.runs / "random" / "model", model, config, origin=origin)
    make_starter(settings, "random", version="7", folder=settings.home / "package")
    return settings.home


@pytest.fixture
def starter(untrained_starter: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The installation has that model; its checkpoint folder."""
    monkeypatch.setattr(kinds, "SHIPPED", untrained_starter / "package" / "model")
    return kinds.SHIPPED


@pytest.fixture
def no_starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installation has no model of its own."""
    monkeypatch.setattr(kinds, "SHIPPED", tmp_path / "nothing" / "model")


@pytest.fixture(scope="session")
def tiny_clap(tmp_path_factory: pytest.TempPathFactory) -> ClapFiles:
    """A CLAP of LAION's format without an audio branch, one layer, random weights; read only."""
    folder = tmp_path_factory.mktemp("clap")
    config = _clap_text_config(_write_vocabulary(folder))
    config.save_pretrained(folder)
    torch.manual_seed(0)
    model = ClapText(config)
    with torch.no_grad():  # default weights give nearly the same vector for all texts
        model.text_branch.embeddings.word_embeddings.weight.normal_(std=1.0)
    path = folder / "tiny.pt"
    torch.save(_laion_checkpoint(model.state_dict()), path)
    return ClapFiles(checkpoint=path, tokenizer=folder)


def _clap_text_config(words: int) -> Any:
    """One layer of RoBERTa, as wide as ``laion_clap`` expects it."""
    from transformers import RobertaConfig

    return RobertaConfig(
        vocab_size=words,
        hidden_size=768,
        num_hidden_layers=1,
        num_attention_heads=12,
        intermediate_size=64,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )


def _laion_checkpoint(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """These weights with what LAION's files hold beside them."""
    state = {f"module.{name}": tensor for name, tensor in weights.items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    moments = {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}
    return {
        "epoch": 15,
        "name": "tiny",
        "best_score": np.float64(0.9014),
        "state_dict": state,
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-4, "params": [0]}]},
    }


def _write_vocabulary(folder: Path) -> int:
    """A byte-level vocabulary trained on instruments; returns its size."""
    from tokenizers import ByteLevelBPETokenizer

    from ml.labels.taxonomy import CATEGORIES

    tokenizer = ByteLevelBPETokenizer()
    texts = [text for texts in CATEGORIES.values() for text in texts]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(texts, vocab_size=400, min_frequency=1, special_tokens=special)
    tokenizer.save_model(str(folder))
    return tokenizer.get_vocab_size()


def _build_home(home: Path) -> None:
    from ml.corpora.corpus import open_corpus
    from ml.corpora.demo.build import build_demo_corpora
    from ml.corpora.demo.songs import DemoConfig
    from ml.corpora.label_embeddings import build_label_embeddings
    from ml.corpora.table import build_corpus_tracks
    from ml.labels.encoders import build_label_encoder
    from ml.settings import load_settings
    from ml.shards.build import ShardConfig, build_shards
    from ml.training.runs import train_preset

    settings = load_settings(home)
    layout = settings.layout
    demo = DemoConfig(train_songs=8, heldout_songs=4, train_s=8.0, heldout_s=8.0, valid_share=0.25)
    build_demo_corpora(layout.corpora, demo, workers=1)
    encoder = build_label_encoder("minilm")
    for name in settings.corpora:
        corpus = settings.corpus(name)
        build_corpus_tracks(name, open_corpus(corpus.kind, corpus.root), layout)
        build_label_embeddings(name, layout, encoder)
    build_shards("demo", layout, ShardConfig(payload="pcm16"))
    for preset, overrides in {"contrastive": CONTRASTIVE, "film": SMALL, "film-nce": SMALL}.items():
        train_preset(preset, layout=layout, corpora=["demo"], overrides=overrides)


def write_song(
    path: Path,
    programs: Iterable[int] = (0, 33, 48),
    *,
    beats: int = 40,
    tempo: int = 500_000,
    has_drums: bool = True,
    pitch: int = 60,
) -> Path:
    """Format 1: a track a program, one note a beat, and drums."""
    file = mido.MidiFile(type=1, ticks_per_beat=MIDI_TICKS)
    first = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=tempo)])
    file.tracks.append(first)
    channels = [*enumerate(programs), *([(9, 0)] if has_drums else [])]
    for channel, program in channels:
        track = mido.MidiTrack([mido.MetaMessage("track_name", name=f"part {channel}")])
        track.append(mido.Message("program_change", channel=channel, program=program))
        for beat in range(beats):
            note = (36, 38)[beat % 2] if channel == 9 else pitch + 3 * channel + beat % 5
            loud = 40 + beat % 80
            track.append(mido.Message("note_on", channel=channel, note=note, velocity=loud))
            track.append(mido.Message("note_off", channel=channel, note=note, time=MIDI_TICKS))
        file.tracks.append(track)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save(path)
    return path


@pytest.fixture
def song() -> Callable[..., Path]:
    """``write_song``."""
    return write_song


@pytest.fixture(scope="session")
def soundfonts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two soundfonts: sines for all of General MIDI, and squares for keys alone."""
    if find_library("fluidsynth") is None:
        pytest.skip("FluidSynth is not installed: apt-get install fluidsynth")
    folder = tmp_path_factory.mktemp("soundfonts")
    cycle = np.sin(2 * np.pi * np.arange(100) / 100)
    programs = [(0, program) for program in range(128)]
    kinds = {"sine": (cycle, [*programs, (128, 0)]), "square": (np.sign(cycle), programs[:16])}
    return [
        _write_soundfont(folder / f"{name}.sf2", wave, presets)
        for name, (wave, presets) in kinds.items()
    ]


def _write_soundfont(path: Path, cycle: np.ndarray, presets: list[tuple[int, int]]) -> Path:
    """One looped sample (SoundFont 2.01), which all presets (bank, program) play."""
    wave = np.rint(12_000 * np.tile(cycle, 20)).astype("<i2")
    samples = wave.tobytes() + bytes(92)
    headers = b"".join(
        struct.pack("<20sHHHIII", f"p{bank}-{program}".encode(), program, bank, i, 0, 0, 0)
        for i, (bank, program) in enumerate([*presets, (0, 255)])
    )
    bags = b"".join(struct.pack("<HH", i, 0) for i in range(len(presets) + 1))
    plays = b"".join(struct.pack("<HH", 41, 0) for _ in presets) + bytes(4)
    sample = struct.pack(
        "<20sIIIIIBbHH", b"wave", 0, len(wave), 500, 1500, MIDI_RATE_HZ, 57, 0, 0, 1
    ) + struct.pack("<20sIIIIIBbHH", b"EOS", *(0,) * 9)
    data = {
        b"phdr": headers,
        b"pbag": bags,
        b"pmod": bytes(10),
        b"pgen": plays,
        b"inst": struct.pack("<20sH", b"wave", 0) + struct.pack("<20sH", b"EOI", 1),
        b"ibag": struct.pack("<HHHH", 0, 0, 2, 0),
        b"imod": bytes(10),
        b"igen": struct.pack("<HHHH", 54, 1, 53, 0) + bytes(4),
        b"shdr": sample,
    }
    info = {b"ifil": struct.pack("<HH", 2, 1), b"isng": b"EMU8000\0", b"INAM": b"test\0\0"}
    lists = [_list(b"INFO", info), _list(b"sdta", {b"smpl": samples}), _list(b"pdta", data)]
    path.write_bytes(_chunk(b"RIFF", b"sfbk" + b"".join(lists)))
    return path


def _list(kind: bytes, chunks: dict[bytes, bytes]) -> bytes:
    return _chunk(b"LIST", kind + b"".join(_chunk(name, data) for name, data in chunks.items()))


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data
