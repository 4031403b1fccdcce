"""The ``corpus_tracks`` table: one row a stem, with what was measured on it.

``tracks.parquet`` holds the columns of ``_schema``; ``files`` are relative to the corpus root in
the manifest where they lie below it, and absolute after ``read_corpus_tracks``. The identity is the
*content* (hashes, labels, splits, …), so a corpus that was moved or touched keeps its version.
Each stem's measurements are remembered with the sizes and times of its files, as they come in
(``ml.corpora.scan``): only changed stems are decoded again, and a scan that was killed goes
on where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from ml import kinds
from ml.artifacts import (
    Artifact,
    ArtifactError,
    DataLayout,
    find_current,
    fingerprint,
    finish,
    read_manifest,
    write_aside,
)
from ml.audio.activity import ActivityConfig
from ml.corpora.scan import (
    StemScan,
    compact_scans,
    listed_tracks,
    read_scans,
    record_scans,
    scan_stems,
    track_problems,
    without_mixes,
)
from ml.locks import lock
from ml.parquet import read_frame
from ml.tracks import Corpus, RenderedCorpus, Stem, Track, shown

if TYPE_CHECKING:
    import polars as pl

TABLE_NAME = "tracks.parquet"
_RULES = 2
"""Raised when what is measured on a file changes: all stems are then measured anew, once."""


def build_corpus_tracks(
    name: str, corpus: Corpus, layout: DataLayout, *, workers: int = 1
) -> Artifact:
    """Scan a corpus into its ``corpus_tracks`` table; stems that did not change are not decoded.

    Raises:
        CorpusError: the corpus is empty or a stem id occurs twice. What is wrong with single
            stems is in the column ``problem`` instead.
    """
    folder, activity = layout.tracks(name), ActivityConfig()
    if isinstance(corpus, RenderedCorpus):
        corpus.render(workers=workers)
    tracks = listed_tracks(corpus)
    stamps = {stem.stem_id: _stamp(stem, corpus.root, activity) for t in tracks for stem in t.stems}
    scans = read_scans(folder, stamps, corpus.root)
    if len(scans) == len(stamps) and (
        found := _find(folder, _identity(name, corpus.root, tracks, scans, activity), corpus.root)
    ):
        return found
    with lock(folder / ".lock"):
        new = [stem for track in tracks for stem in track.stems if stem.stem_id not in scans]
        measured = scan_stems(new, workers=workers, activity=activity)
        ids = (stem.stem_id for stem in new)
        scans |= record_scans(folder, zip(ids, measured, strict=True), stamps)
        compact_scans(folder, scans, stamps)
        identity = _identity(name, corpus.root, tracks, scans, activity)
        found = _find(folder, identity, corpus.root)
        rows = table_rows(name, tracks, scans)
        if found is None:
            write_table(folder / TABLE_NAME, rows, corpus.root)
        return found or finish(
            folder,
            identity,
            kinds.CORPUS_TRACKS,
            summary=summarize(rows),
            corpus=name,
            root=str(corpus.root),
        )


def read_corpus_tracks(layout: DataLayout, name: str) -> pl.DataFrame:
    """Read the table of a corpus, one row a stem, ``files`` absolute.

    Raises:
        ArtifactError: it was not built, or by a newer program.
    """
    import polars as pl

    folder = layout.tracks(name)
    made_by = f"stems corpus build {name}"
    manifest = read_manifest(folder, kinds.CORPUS_TRACKS)
    if not (folder / TABLE_NAME).is_file():
        raise ArtifactError(f"{folder} holds no {TABLE_NAME}; make it with: {made_by}")
    table = read_frame(folder / TABLE_NAME)
    root = Path(manifest["root"])
    files = [[str(root / path) for path in paths] for paths in table["files"].to_list()]
    return table.with_columns(pl.Series("files", files, dtype=pl.List(pl.String)))


def tracks_of_table(table: pl.DataFrame) -> list[Track]:
    """List the tracks of a table, in its order, with their usable stems (``active_s`` > 0)."""
    by_track: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in table.iter_rows(named=True):
        if row["active_s"] > 0:
            by_track.setdefault((row["corpus"], row["track_id"]), []).append(row)
    return [
        Track(
            track_id=track_id,
            stems=tuple(_stem_of_row(row) for row in rows),
            split=rows[0]["split"],
            artist=rows[0]["artist"],
            title=rows[0]["title"],
        )
        for (_, track_id), rows in by_track.items()
    ]


def table_rows(
    name: str, tracks: Sequence[Track], scans: Mapping[str, StemScan]
) -> list[dict[str, Any]]:
    """Make the rows of the table with absolute ``files``, in the corpus's order."""
    rows = []
    for track in tracks:
        measured = without_mixes(track, [scans[stem.stem_id] for stem in track.stems])
        problems = track_problems(track, measured)
        for stem, scan, problem in zip(track.stems, measured, problems, strict=True):
            columns = {**vars(scan), "problem": problem}
            del columns["sketch"]
            rows.append(_row(name, track, stem) | columns)
    return rows


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count rows and hours of a table; ``hours`` counts each track once, at its longest stem."""
    lengths: dict[str, float] = {}
    splits: dict[str, str] = {}
    for row in rows:
        track_id = row["track_id"]
        lengths[track_id] = max(lengths.get(track_id, 0.0), row["duration_s"] or 0.0)
        splits[track_id] = row["split"] or "unsplit"
    per_split = Counter(splits.values())
    return {
        "tracks": len(lengths),
        "stems": len(rows),
        "usable_stems": sum(row["active_s"] > 0 for row in rows),
        "hours": sum(lengths.values()) / 3600,
        "stem_hours": sum(row["duration_s"] or 0.0 for row in rows) / 3600,
        "active_stem_hours": sum(row["active_s"] for row in rows) / 3600,
        "problems": sum(row["problem"] is not None for row in rows),
        **{f"{split}_tracks": per_split[split] for split in sorted(per_split)},
    }


def _row(name: str, track: Track, stem: Stem) -> dict[str, Any]:
    return {
        "corpus": name,
        "track_id": track.track_id,
        "stem_id": stem.stem_id,
        "split": track.split,
        "artist": track.artist,
        "title": track.title,
        "labels": list(stem.labels),
        "category": stem.category,
        "files": [shown(path) for path in stem.files],
        "stream": stem.stream,
        "start_s": stem.start_s,
        "has_bleed": stem.has_bleed,
    }


def _stem_of_row(row: Mapping[str, Any]) -> Stem:
    return Stem(
        stem_id=row["stem_id"],
        files=tuple(Path(path) for path in row["files"]),
        labels=tuple(row["labels"]),
        stream=row["stream"],
        start_s=row["start_s"],
        has_bleed=row["has_bleed"],
    )


def _schema() -> dict[str, Any]:
    import polars as pl

    text, number, count = pl.String, pl.Float64, pl.Int64
    return {
        **dict.fromkeys(("corpus", "track_id", "stem_id", "split", "artist", "title"), text),
        "labels": pl.List(text),
        "category": text,
        "files": pl.List(text),
        **dict.fromkeys(("stream", "rate_hz", "channels"), count),
        **dict.fromkeys(("duration_s", "active_s", "peak", "rms_db"), number),
        "has_bleed": pl.Boolean,
        "content_hash": text,
        "problem": text,
        "start_s": number,
    }


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], root: Path) -> None:
    """Write ``table_rows`` as Parquet, files below ``root`` relative to it."""
    import polars as pl

    schema = _schema()
    stored = [
        {**row, "files": [_relative(Path(file), root) for file in row["files"]]} for row in rows
    ]
    with write_aside(path) as aside:
        pl.DataFrame(stored, schema=schema, orient="row").select(list(schema)).write_parquet(aside)


def _relative(path: Path, root: Path) -> str:
    return shown((path.relative_to(root) if path.is_relative_to(root) else path).as_posix())


def _identity(
    name: str,
    root: Path,
    tracks: Sequence[Track],
    scans: Mapping[str, StemScan],
    activity: ActivityConfig,
) -> dict[str, Any]:
    rows = [
        {
            **_row(name, track, stem),
            "files": [_relative(path, root) for path in stem.files],
            "content_hash": scan.content_hash,
            "problem": (scan.problem or "").replace(f"{root}/", ""),
        }
        for track in tracks
        for stem, scan in zip(
            track.stems,
            without_mixes(track, [scans[stem.stem_id] for stem in track.stems]),
            strict=True,
        )
    ]
    return {"corpus": name, "stems": fingerprint(rows), "activity": asdict(activity)}


def _find(folder: Path, identity: Mapping[str, Any], root: Path) -> Artifact | None:
    """Find the artifact on disk if it has this identity, is whole and names this root."""
    found = find_current(folder, identity, kinds.CORPUS_TRACKS)
    if found is None or not (folder / TABLE_NAME).is_file():
        return None
    manifest = read_manifest(folder, kinds.CORPUS_TRACKS)
    return found if manifest.get("root") == str(root) else None


def _stamp(stem: Stem, root: Path, activity: ActivityConfig) -> str:
    """Fingerprint what decides whether a stem must be decoded again."""
    files = []
    for path in stem.files:
        try:
            state = path.stat()
            size_time = (state.st_size, state.st_mtime_ns) if S_ISREG(state.st_mode) else None
        except (OSError, ValueError):  # the scan says so
            size_time = None
        files.append((_relative(path, root), size_time))
    return fingerprint(
        [
            *(kinds.CORPUS_TRACKS.format_version, _RULES, files),
            *(stem.stream, stem.start_s, asdict(activity)),
        ]
    )
