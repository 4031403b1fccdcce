"""Loading pairs: rate a core, bytes a pair, memory over time; beside plain WebDataset.

Pairs are as in training (paper size): 8 s, a target and on average two context stems. The peer
reads the same tars sample by sample and decodes all stems whole, which is what WebDataset offers.
Files are in the page cache: this is about processor time, which is counted over all processes.

Shards are of synthetic tracks (``Tones``), made without tables or label encoders: what a bare GPU
box can do. They also serve ``training`` and ``gpu``.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile

from ml.artifacts import file_fingerprint
from ml.benchmarks.measure import Measure, cost_of
from ml.processes import cores, process_pool
from ml.shards.build import finish_shards
from ml.shards.index import Payload
from ml.shards.pairs import PairBatch, PairConfig
from ml.shards.plan import PlannedTrack, ShardConfig, plan_shards
from ml.shards.reader import ShardPairs
from ml.shards.write import ShardJob, write_shard
from ml.tracks import Stem, Track

RATE_HZ = 16000
_LABELS = (("bass",), ("drums",), ("guitar", "acoustic guitar"), ("vocals",))


@dataclass(frozen=True, kw_only=True)
class Tones:
    """How much audio there is."""

    tracks: int
    stems: int = 4
    track_s: float = 32.0
    condition_dim: int = 512

    @property
    def stem_s(self) -> float:
        """All stems together, in seconds."""
        return self.tracks * self.stems * self.track_s


CONFIG = PairConfig(chunk_s=8.0)
SAMPLES = round(CONFIG.chunk_s * RATE_HZ)
TONES = Tones(tracks=48)
"""Four stems that sound throughout: one to three of context, two on average."""
BATCH_SIZE = 48
BATCHES: dict[Payload, int] = {"flac": 16, "pcm16": 48}
"""Of one timed run, long beside the start of processes; the median of ``REPEATS`` runs counts."""
REPEATS = 3
MEMORY_RUN_S, MEMORY_BATCH = 16.0, 4
"""Small batches: how many wait between processes is a matter of luck."""
ASKED: dict[Payload, float] = {"flac": 160.0, "pcm16": 500.0}
"""Pairs per second and core."""


def measure() -> Iterator[Measure]:
    """Measure both payloads, then memory."""
    logging.getLogger("ml.shards").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="loader-") as home:
        folders: dict[Payload, Path] = {}
        for payload in BATCHES:
            stored = ShardConfig(payload=payload, shard_segments=24, valid_share=0.0)
            folders[payload] = Path(home) / payload
            write_tone_shards(folders[payload], TONES, stored, workers=cores())
            yield from measure_payload(payload, folders[payload])
        for payload, folder in folders.items():
            yield measure_memory(payload, folder)


def measure_payload(payload: Payload, folder: Path) -> Iterator[Measure]:
    """Rates and bytes of one payload."""
    peer = webdataset_rate(folder, BATCHES[payload] * BATCH_SIZE // 2)
    for workers in (0, 2):
        pairs = open_pairs(folder, workers)
        cost = cost_of(lambda p=pairs: draw(p, BATCHES[payload]), repeats=REPEATS)
        drawn = BATCHES[payload] * BATCH_SIZE
        yield Measure(
            name=f"pairs of 8 s from {payload}, {_workers(workers)}",
            value=drawn / cost.cpu_s,
            unit="pairs per CPU s",
            asked=ASKED[payload],
            peer="wds.WebDataset decoding whole samples",
            peer_value=peer,
            note=f"{drawn / cost.wall_s:.0f} pairs/s on {_load()}",
        )
        if not workers:
            read = pairs.counts.bytes_read / pairs.counts.pairs
            yield Measure(
                name=f"read per pair from {payload}",
                value=read / 1e6,
                unit="MB",
                asked=1.0,
                lower_is_better=True,
                note=f"shards are {_stored_ratio(folder):.2f} of PCM16",
            )


def measure_memory(payload: Payload, folder: Path) -> Measure:
    """Compare memory in the last quarter of a run with that in the second."""
    pairs = open_pairs(folder, workers=2, batch_size=MEMORY_BATCH)
    batches = pairs.batches()
    begun = time.monotonic()
    quarters: list[list[float]] = [[], [], [], []]
    while (quarter := int(4 * (time.monotonic() - begun) / MEMORY_RUN_S)) < 4:
        for batch in itertools.islice(batches, 16):
            _touch(batch)
        quarters[quarter].append(memory_gb())
    before, after = median(quarters[1]), median(quarters[3])
    del batches
    return Measure(
        name=f"growth of memory while loading from {payload}, 2 worker processes",
        value=100 * (after / before - 1),
        unit="%",
        asked=5.0,
        lower_is_better=True,
        note=f"{pairs.counts.pairs} pairs ({pairs.counts.pairs * CONFIG.chunk_s / 3600:.1f} h of "
        f"targets), {pairs.counts.pairs // (TONES.tracks * 2)} epochs; {after:.2f} GB in all "
        "processes",
    )


def open_pairs(folder: Path, workers: int, batch_size: int = BATCH_SIZE) -> ShardPairs:
    """Open the loader as training uses it."""
    return ShardPairs([folder], config=CONFIG, batch_size=batch_size, seed=0, workers=workers)


def draw(pairs: ShardPairs, n_batches: int) -> None:
    """Load batches and let the worker processes end, so that their time is counted."""
    for batch in pairs.batches(stop=n_batches):
        _touch(batch)


def webdataset_rate(folder: Path, n_pairs: int) -> float:
    """Measure pairs per CPU second of a plain WebDataset pipeline over the same tars."""
    from webdataset.compat import WebDataset

    urls = [str(path) for path in sorted(folder.glob("[!.]*.tar"))]
    rng = np.random.default_rng(0)

    def pair(sample: dict[str, Any]) -> np.ndarray:
        stems = [
            soundfile.read(io.BytesIO(data), dtype="int16")[0]
            for member, data in sample.items()
            if member.endswith((".flac", ".wav"))
        ]
        size = 2 + int(rng.integers(len(stems) - 1))
        start = int(rng.integers(len(stems[0]) - SAMPLES + 1))
        chosen = rng.permutation(len(stems))[:size]
        return np.stack([stems[i][start : start + SAMPLES] for i in chosen])

    def work() -> None:
        dataset: Any = WebDataset(urls, shardshuffle=False).map(pair)
        for _ in itertools.islice(dataset.repeat(), n_pairs):
            pass

    return n_pairs / cost_of(work, repeats=REPEATS).cpu_s


def memory_gb() -> float:
    """Count the memory of this process and its children, what they share once.

    Without mapped files: those are shared with whatever else runs on the machine.
    """
    import psutil

    n_bytes = 0
    process = psutil.Process()
    for each in (process, *process.children(recursive=True)):
        for line in Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                n_bytes += 1024 * int(line.split()[1])
    return n_bytes / 1e9


def _touch(batch: PairBatch) -> None:
    """Look at every page of what comes out of the loader: it is there to be used."""
    for tensor in (batch.target, batch.context):
        tensor.view(-1)[::2048].sum()


def _stored_ratio(folder: Path) -> float:
    stored = sum(path.stat().st_size for path in folder.glob("[!.]*.tar"))
    return stored / (TONES.stem_s * RATE_HZ * 2)


def _workers(n: int) -> str:
    return f"{n} worker processes" if n else "in this process"


def _load() -> str:
    return f"{cores()} cores, load {os.getloadavg()[0]:.1f}"


def write_tone_shards(folder: Path, tones: Tones, config: ShardConfig, *, workers: int = 1) -> Path:
    """Write decaying tones over some noise as shards of one split, with random label vectors.

    FLAC stores them in about 0.6 of PCM16.

    Args:
        folder: where the shards go; the audio they are made from goes beside it.
        tones: how much.
        config: how to store.
        workers: processes.

    Returns:
        ``folder``, with its manifest.
    """
    folder.mkdir(parents=True)
    audio = folder.parent / f"{folder.name}-audio"
    rng = np.random.default_rng(0)
    vectors = {
        text: vector / np.linalg.norm(vector)
        for text in sorted({label for labels in _LABELS for label in labels})
        for vector in [rng.standard_normal(tones.condition_dim).astype(np.float32)]
    }
    encoder = {"name": "random", "dim": tones.condition_dim, "fingerprint": "0" * 64}
    with process_pool(workers) as pool:
        writing = [pool.submit(_write_track, audio, tones, i) for i in range(tones.tracks)]
        tracks = [future.result() for future in writing]
        tasks = plan_shards(_planned(tracks, tones), config)
        jobs = [
            ShardJob(
                task=task,
                config=config,
                key=task.fingerprint(config, encoder),
                vectors=vectors,
                folder=folder,
            )
            for task in tasks
        ]
        made = {
            index.name: index
            for done in as_completed([pool.submit(write_shard, job) for job in jobs])
            for index in [done.result()]
        }
    indexes = [made[name] for name in sorted(made)]
    return finish_shards(folder, {"tones": tones}, indexes, encoder, config).path


def _planned(tracks: list[Track], tones: Tones) -> Iterator[PlannedTrack]:
    for track in tracks:
        yield PlannedTrack(
            corpus="tones",
            track=track,
            split="train",
            duration_s=tones.track_s,
            content_hashes=tuple(file_fingerprint(stem.files[0]) for stem in track.stems),
        )


def _write_track(root: Path, tones: Tones, number: int) -> Track:
    rng = np.random.default_rng(number)
    time_s = np.arange(round(tones.track_s * RATE_HZ)) / RATE_HZ
    folder = root / f"track {number:04d}"
    folder.mkdir(parents=True)
    stems = []
    for i in range(tones.stems):
        pitch_hz = 80.0 * 2 ** (rng.uniform(0, 4))
        overtones = sum(
            np.sin(2 * np.pi * pitch_hz * k * time_s + rng.uniform(0, 6)) / k for k in (1, 2, 3)
        )
        waveform = 0.2 * overtones * np.exp(-3 * (2 * time_s % 1))
        waveform += 0.003 * rng.standard_normal(len(time_s))
        path = folder / f"stem {i}.wav"
        soundfile.write(path, waveform, RATE_HZ, subtype="PCM_16")
        labels = _LABELS[i % len(_LABELS)]
        stems.append(Stem(stem_id=f"{number:04d}/{i}", files=(path,), labels=labels))
    return Track(track_id=f"{number:04d}", stems=tuple(stems))
