"""What 20,000 tracks of 6 stems cost before any audio is read: listing them, planning their shards.

The file tree is real and its files are empty. Each part runs in a process of its own, so that its
memory is its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ml import kinds
from ml.artifacts import DataLayout, finish
from ml.benchmarks.measure import Measure, in_own_process
from ml.shards.plan import ShardConfig
from ml.tracks import Track

NAME = "bench"
TRACKS, STEMS = 20_000, ("bass", "drums", "guitar", "keys", "strings", "vocals")
TRACK_S = 243.0
ENCODER = {"name": "random", "dim": 512, "fingerprint": "0" * 64}


def measure() -> Iterator[Measure]:
    """Measure seconds and peak memory of listing, and of planning the shards."""
    with tempfile.TemporaryDirectory(prefix="stems-bench-") as folder:
        home = Path(folder)
        for track in range(TRACKS):
            track_folder = home / "audio" / f"track-{track:05d}"
            track_folder.mkdir(parents=True)
            for stem in STEMS:
                (track_folder / f"{stem}.wav").touch()
        list_s, list_gb = in_own_process(list_folder, home / "audio")
        in_own_process(write_tables, home)
        plan_s, plan_gb = in_own_process(plan, home)
    note = f"{TRACKS:,} tracks of {len(STEMS)} stems; a folder corpus, no shards yet"
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
    from ml.corpora.readers.folder import FolderCorpus
    from ml.corpora.scan import listed_tracks

    started = time.perf_counter()
    assert len(listed_tracks(FolderCorpus(folder))) == TRACKS
    return time.perf_counter() - started


def write_tables(home: Path) -> None:
    """Write the ``corpus_tracks`` and ``label_embeddings`` that a scan of the tree would give."""
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
    summary = {"tracks": len(tracks)}
    finish(layout.tracks(NAME), {}, kinds.CORPUS_TRACKS, summary=summary, root=str(root))
    finish(layout.labels(NAME), {}, kinds.LABEL_EMBEDDINGS, summary=summary, encoder=ENCODER)


def plan(home: Path) -> float:
    """Plan the shards, which is what ``stems shards build --dry-run`` waits for; seconds."""
    from ml.shards.plan import plan_build

    started = time.perf_counter()
    tasks = plan_build(NAME, DataLayout(home=home), ShardConfig(), ENCODER).tasks
    assert sum(len(task.tracks) for task in tasks.values()) == TRACKS
    return time.perf_counter() - started
