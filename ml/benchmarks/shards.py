"""What making shards from 44.1 kHz stereo WAV costs, beside a bare loop and beside ffmpeg.

All of them read the same files: mono, 16 kHz, 16-bit FLAC out. Ours also finds silence, cuts
segments, writes tars with checksums and indexes, and syncs them to the disk. And what 20,000 tracks
of 6 stems cost before any audio is read: listing them (a real tree of empty files), planning their
shards.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from ml import kinds
from ml.artifacts import DataLayout, finish
from ml.benchmarks.measure import Cost, Measure, cost_of, in_own_process
from ml.corpora.label_embeddings import build_label_embeddings
from ml.corpora.readers.folder import FolderCorpus
from ml.corpora.table import build_corpus_tracks
from ml.processes import cores
from ml.shards.build import build_shards
from ml.shards.plan import ShardConfig
from ml.tracks import Track

NAME = "bench"
TRACKS, STEMS, STEM_S = 8, ("bass", "drums", "guitar", "vocals"), 180.0
SONGS = 4
"""Different ones among the tracks; the others are hard links, to spare the disk (0.5 GB)."""
SOURCE_HZ, RATE_HZ = 44100, 16000
REPEATS = 3
CPU_UNIT = "s of stem per CPU s"
CONFIG = ShardConfig(shard_segments=12)
"""A track a shard: enough shards for a few cores from a corpus that is made in seconds."""
LISTED_TRACKS, TRACK_S = 20_000, 243.0
LISTED_STEMS = ("bass", "drums", "guitar", "keys", "strings", "vocals")
ENCODER = {"name": "random", "dim": 512, "fingerprint": "0" * 64}


class RandomLabels:
    """A label encoder that costs nothing."""

    name, dim, fingerprint = "random", 512, "0" * 64

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Draw unit vectors: (text, dim) float32."""
        rows = np.random.default_rng(0).standard_normal((len(texts), self.dim), dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def measure() -> Iterator[Measure]:
    """Build shards on one core and on all, with the peers in the same run."""
    with tempfile.TemporaryDirectory(prefix="stems-bench-") as folder:
        home = Path(folder)
        wavs = write_songs(home / "audio")
        layout = DataLayout(home=home / "home")
        corpus = FolderCorpus(home / "audio")
        build_corpus_tracks(NAME, corpus, layout)
        build_label_embeddings(NAME, layout, RandomLabels())
        yield from _figures(layout, wavs)
    yield from _planning()


def write_songs(folder: Path) -> list[Path]:
    """Write a folder corpus of decaying chords with some noise, 16-bit stereo."""
    time_s = np.arange(round(STEM_S * SOURCE_HZ)) / SOURCE_HZ
    rng = np.random.default_rng(0)
    written = []
    for place, stem in enumerate(STEMS):
        beats = np.exp(-3.0 * (time_s % 0.5)) + 0.05
        chord = sum(np.sin(2 * np.pi * f * time_s) / k for k, f in enumerate((110, 277, 331), 1))
        noise = rng.standard_normal((len(time_s), 2), dtype=np.float32)
        sides = np.stack([chord, np.roll(chord, 40 * (place + 1))], axis=1)
        waveform = (0.2 * beats[:, None] * (sides + 0.02 * noise) + 0.001 * noise).astype("f4")
        for track in range(TRACKS):
            path = folder / f"track-{track:02d}" / f"{stem}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            written.append(path)
            if track >= SONGS:
                path.hardlink_to(folder / f"track-{track % SONGS:02d}" / path.name)
                continue
            shifted = np.roll(waveform, track * 1000, axis=0)
            soundfile.write(path, shifted, SOURCE_HZ, subtype="PCM_16")
    return sorted(written)


def _figures(layout: DataLayout, wavs: Sequence[Path]) -> Iterator[Measure]:
    stem_s = len(wavs) * STEM_S
    note = f"{stem_s:.0f} s of stems in {len(wavs)} files, cached; median of {REPEATS}"
    out = layout.home / "loop"
    out.mkdir(parents=True)
    one = cost_of(lambda: _build(layout, workers=1), repeats=REPEATS)
    bare = cost_of(lambda: bare_loop(wavs, out), repeats=REPEATS)
    yield Measure(
        name="shards from 44.1 kHz stereo WAV, one process",
        value=stem_s / one.cpu_s,
        unit=CPU_UNIT,
        asked=700,
        peer="bare loop of soundfile, soxr HQ, FLAC",
        peer_value=stem_s / bare.cpu_s,
        note=note,
    )
    every = cost_of(lambda: _build(layout, workers=cores()), repeats=REPEATS)
    yield _beside_ffmpeg(wavs, out, every)


def _beside_ffmpeg(wavs: Sequence[Path], out: Path, ours: Cost) -> Measure:
    name = f"wall time of the shards with {cores()} processes"
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        note = "no ffmpeg here: nothing to compare with"
        return Measure(name=name, value=ours.wall_s, unit="s", lower_is_better=True, note=note)
    loop = cost_of(lambda: ffmpeg_loop(ffmpeg, wavs, out), repeats=REPEATS)
    stem_s = len(wavs) * STEM_S
    return Measure(
        name=name,
        value=ours.wall_s,
        unit="s",
        asked=loop.wall_s,
        lower_is_better=True,
        peer="ffmpeg, file after file",
        peer_value=loop.wall_s,
        note=f"ffmpeg: {stem_s / loop.cpu_s:,.0f} {CPU_UNIT}",
    )


def _build(layout: DataLayout, *, workers: int) -> None:
    shutil.rmtree(layout.shards(NAME), ignore_errors=True)
    build_shards(NAME, layout, CONFIG, workers=workers)


def bare_loop(wavs: Sequence[Path], out: Path) -> None:
    """Do what nobody can do without: read, mix down, resample, write."""
    import soxr

    for path in wavs:
        stereo, _ = soundfile.read(path, dtype="float32")
        mono = (stereo[:, 0] + stereo[:, 1]) / 2
        resampled = soxr.resample(mono, SOURCE_HZ, RATE_HZ, quality="HQ")
        soundfile.write(out / "loop.flac", resampled, RATE_HZ, subtype="PCM_16")


def ffmpeg_loop(ffmpeg: str, wavs: Sequence[Path], out: Path) -> None:
    """Do the same by ffmpeg, one process a file."""
    for path in wavs:
        options = ["-y", "-loglevel", "error", "-nostdin", "-i", str(path)]
        target = ["-ac", "1", "-ar", str(RATE_HZ), "-sample_fmt", "s16", str(out / "ffmpeg.flac")]
        subprocess.run([ffmpeg, *options, *target], check=True)


def _planning() -> Iterator[Measure]:
    """Measure listing and planning: seconds, and the peak memory of a process of its own."""
    with tempfile.TemporaryDirectory(prefix="stems-bench-") as folder:
        home = Path(folder)
        for track in range(LISTED_TRACKS):
            track_folder = home / "audio" / f"track-{track:05d}"
            track_folder.mkdir(parents=True)
            for stem in LISTED_STEMS:
                (track_folder / f"{stem}.wav").touch()
        list_s, list_gb = in_own_process(list_folder, home / "audio")
        in_own_process(write_tables, home)
        plan_s, plan_gb = in_own_process(plan, home)
    note = f"{LISTED_TRACKS:,} tracks of {len(LISTED_STEMS)} stems; a folder corpus, no shards yet"
    yield Measure(
        name="listing and planning",
        value=list_s + plan_s,
        unit="s",
        asked=60.0,
        lower_is_better=True,
        note=f"{note}; {list_s:.1f} s of it for listing",
    )
    yield Measure(
        name="its peak memory",
        value=max(list_gb, plan_gb),
        unit="GB",
        asked=1.0,
        lower_is_better=True,
        note=note,
    )


def list_folder(folder: Path) -> float:
    """List the tree as a folder corpus; seconds."""
    from ml.corpora.scan import listed_tracks

    started = time.perf_counter()
    assert len(listed_tracks(FolderCorpus(folder))) == LISTED_TRACKS
    return time.perf_counter() - started


def write_tables(home: Path) -> None:
    """Write the ``corpus_tracks`` and ``label_embeddings`` that a scan of the tree would give."""
    from ml.corpora import table
    from ml.corpora.scan import StemScan

    layout, root = DataLayout(home=home), home / "audio"
    tracks: list[Track] = list(FolderCorpus(root).tracks())
    scans = {
        stem.stem_id: StemScan(
            rate_hz=44100,
            channels=2,
            duration_s=TRACK_S,
            active_s=0.8 * TRACK_S,
            peak=0.5,
            rms_db=-20.0,
            content_hash=f"{place:064x}",
        )
        for place, stem in enumerate(stem for track in tracks for stem in track.stems)
    }
    rows = table.table_rows(NAME, tracks, scans)
    layout.tracks(NAME).mkdir(parents=True)
    table.write_table(layout.tracks(NAME) / table.TABLE_NAME, rows, root)
    summary = {"tracks": len(tracks)}
    finish(layout.tracks(NAME), {}, kinds.CORPUS_TRACKS, summary=summary, root=str(root))
    finish(layout.labels(NAME), {}, kinds.LABEL_EMBEDDINGS, summary=summary, encoder=ENCODER)


def plan(home: Path) -> float:
    """Plan the shards, which is what ``stems shards build --dry-run`` waits for; seconds."""
    from ml.shards.plan import plan_build

    started = time.perf_counter()
    tasks = plan_build(NAME, DataLayout(home=home), ShardConfig(), ENCODER).tasks
    assert sum(len(task.tracks) for task in tasks.values()) == LISTED_TRACKS
    return time.perf_counter() - started
