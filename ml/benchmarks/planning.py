"""What 20,000 tracks of 6 stems cost before any audio is read: listing them, planning their shards.

The file tree is real and its files are empty. Each part runs in a process of its own, so that its
memory is its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ml import kinds
from ml.artifacts import DataLayout, finish
from ml.benchmarks.measure import Measure, peak_memory_gb
from ml.processes import process_pool
from ml.shards.plan import ShardConfig
from ml.tracks import Corpus, Track

NAME = "bench"
TRACKS, STEMS = 20_000, ("bass", "drums", "guitar", "keys", "strings", "vocals")
TRACK_S = 243.0
ASKED_S, ASKED_GB = 60.0, 1.0
CONFIG = ShardConfig()
ENCODER = {"name": "random", "dim": 512, "fingerprint": "0" * 64}


def measure() -> Iterator[Measure]:
    """Seconds and peak memory of listing, and of planning the shards, anew and again."""
    with tempfile.TemporaryDirectory(prefix="stems-bench-") as folder:
        home = Path(folder)
        csv = write_tree(home / "audio")
        list_s, list_gb = _apart(list_folder, home / "audio")
        csv_s, csv_gb = _apart(list_manifest, csv)
        _apart(write_tables, home)
        plan_s, plan_gb = _apart(plan, home)
        _apart(write_shards, home)
        again_s, again_gb = _apart(plan, home)
    note = f"{TRACKS:,} tracks of {len(STEMS)} stems; a folder corpus, no shards yet"
    yield _asked("listing and planning", list_s + plan_s, "s", ASKED_S, note)
    yield _asked("its peak memory", max(list_gb, plan_gb), "GB", ASKED_GB, note)
    parts = {
        "listing the folder": (list_s, list_gb),
        "listing a CSV manifest": (csv_s, csv_gb),
        "planning": (plan_s, plan_gb),
        "planning when all shards are there": (again_s, again_gb),
    }
    for name, (seconds, gigabytes) in parts.items():
        note = f"peak memory {gigabytes:.2f} GB"
        yield Measure(name=name, value=seconds, unit="s", lower_is_better=True, note=note)


def write_tree(folder: Path) -> Path:
    """Empty files as a folder corpus, and a CSV manifest that lists them."""
    lines = ["track_id,audio,labels"]
    for track in range(TRACKS):
        name = f"track-{track:05d}"
        (folder / name).mkdir(parents=True)
        for stem in STEMS:
            (folder / name / f"{stem}.wav").touch()
            lines.append(f"{name},{name}/{stem}.wav,{stem}")
    path = folder / "corpus.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def list_folder(folder: Path) -> float:
    """Seconds to list the tree as a folder corpus."""
    from ml.corpora.readers.folder import FolderCorpus

    return _listing_s(lambda: FolderCorpus(folder))


def list_manifest(csv: Path) -> float:
    """Seconds to list the tree by its CSV."""
    from ml.corpora.readers.manifest import ManifestCorpus

    return _listing_s(lambda: ManifestCorpus(csv))


def write_tables(home: Path) -> float:
    """The ``corpus_tracks`` and ``label_embeddings`` that a scan of the tree would give."""
    from ml.corpora import table
    from ml.corpora.readers.folder import FolderCorpus
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
    summary: dict[str, Any] = {"tracks": len(tracks)}
    finish(layout.tracks(NAME), {}, kinds.CORPUS_TRACKS, summary=summary, root=str(root))
    finish(layout.labels(NAME), {}, kinds.LABEL_EMBEDDINGS, summary=summary, encoder=ENCODER)
    return 0.0


def plan(home: Path) -> float:
    """Seconds to plan the shards: what ``stems shards build --dry-run`` does."""
    from ml.shards.estimate import estimate_build

    started = time.perf_counter()
    estimate = estimate_build(NAME, DataLayout(home=home), CONFIG, workers=2)
    assert estimate.tracks == TRACKS
    return time.perf_counter() - started


def write_shards(home: Path) -> float:
    """Every planned shard, as a full build would leave them but without its contents."""
    from ml.shards.index import ShardCounts, ShardIndex, write_index
    from ml.shards.plan import plan_build

    layout = DataLayout(home=home)
    entries = []
    for key, task in plan_build(NAME, layout, CONFIG, ENCODER).tasks.items():
        index = ShardIndex(
            name=f"{task.split}-{task.number:06d}-{key[:8]}.tar",
            split=task.split,
            number=task.number,
            task=key,
            audio=task.audio_fingerprint(CONFIG),
            sha256=key,
            bytes=0,
            rate_hz=CONFIG.rate_hz,
            payload=CONFIG.payload,
            assigned=tuple(planned.track.track_id for planned in task.tracks),
            counts=ShardCounts(),
            segments=(),
        )
        write_index(layout.shards(NAME), index)
        (layout.shards(NAME) / index.name).touch()
        entry = {"name": index.name, "split": task.split, "number": task.number}
        entries.append(entry | {"bytes": 0, "tracks": index.assigned})
    finish(layout.shards(NAME), {}, kinds.STEM_SHARDS, summary={}, config=CONFIG, shards=entries)
    return 0.0


def _listing_s(open_: Callable[[], Corpus]) -> float:
    from ml.corpora.scan import listed_tracks

    started = time.perf_counter()
    found = listed_tracks(open_())
    assert len(found) == TRACKS
    return time.perf_counter() - started


def _apart(work: Callable[[Path], float], path: Path) -> tuple[float, float]:
    """What ``work`` returns and its peak memory in GB, in a process of its own."""
    with process_pool(1) as pool:
        return pool.submit(work, path).result(), pool.submit(peak_memory_gb).result()


def _asked(name: str, value: float, unit: str, asked: float, note: str) -> Measure:
    return Measure(name=name, value=value, unit=unit, asked=asked, lower_is_better=True, note=note)
