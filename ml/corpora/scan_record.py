"""What was measured on each stem, one line of JSON a stem, written as it comes in.

``scans.jsonl`` is only appended to while a scan runs, so one that is killed loses the stem it was
at and no other. A line holds the stem's id, the stamp of its files (paths, sizes, times) and the
measurements; of several lines for a stem the last counts, and a line cut short counts for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ml.artifacts import ArtifactError, read_json, write_aside
from ml.corpora.scan import StemScan

RECORD_NAME = "scans.jsonl"
OLD_NAME = "scans.json"
"""Where earlier versions kept the same, in one piece and only of finished scans."""


def read_scans(folder: Path, stamps: Mapping[str, str], root: Path) -> dict[str, StemScan]:
    """The measurements of stems whose stamp is unchanged.

    Args:
        folder: of the record.
        stamps: stem id → the stamp of its files now.
        root: of the corpus; problems are remembered only if they name this root.
    """
    scans = {}
    for entry in _entries(folder):
        stem_id, stamp = entry.pop("stem_id", None), entry.pop("stamp", None)
        if stem_id not in stamps or stamps[stem_id] != stamp:
            continue
        if not entry.get("problem") or f"{root}/" in entry["problem"]:
            scans[stem_id] = StemScan(**entry)
    return scans


def record_scans(
    folder: Path, measured: Iterable[tuple[str, StemScan]], stamps: Mapping[str, str]
) -> dict[str, StemScan]:
    """Append measurements to the record, each as it comes in.

    Args:
        folder: of the record; its lock is held.
        measured: stem id and measurement.
        stamps: stem id → the stamp of its files.

    Returns:
        All of ``measured``.
    """
    scans = {}
    path = folder / RECORD_NAME
    _cut_last_line(path)
    with path.open("a", encoding="utf-8") as file:
        for stem_id, scan in measured:
            file.write(_line(stem_id, stamps[stem_id], scan))
            file.flush()  # in the hands of the system: no longer lost when this process is killed
            scans[stem_id] = scan
    return scans


def compact_scans(folder: Path, scans: Mapping[str, StemScan], stamps: Mapping[str, str]) -> None:
    """Write the record anew if it holds more or less than these measurements."""
    if sum(1 for _ in _entries(folder)) != len(scans) or (folder / OLD_NAME).exists():
        with write_aside(folder / RECORD_NAME) as aside, aside.open("w", encoding="utf-8") as file:
            file.writelines(_line(key, stamps[key], scan) for key, scan in scans.items())
        (folder / OLD_NAME).unlink(missing_ok=True)


def _line(stem_id: str, stamp: str, scan: StemScan) -> str:
    entry = {"stem_id": stem_id, "stamp": stamp, **asdict(scan)}
    return json.dumps(entry, separators=(",", ":"), allow_nan=False) + "\n"


def _entries(folder: Path) -> Iterator[dict[str, Any]]:
    if (folder / OLD_NAME).is_file():
        try:
            old: Mapping[str, Mapping[str, Any]] = read_json(folder / OLD_NAME)
            yield from ({"stem_id": stem_id, **entry} for stem_id, entry in old.items())
        except (ArtifactError, AttributeError, TypeError):
            pass  # damaged: the stems are measured again
    if (folder / RECORD_NAME).is_file():
        with (folder / RECORD_NAME).open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict):
                    yield entry


def _cut_last_line(path: Path) -> None:
    """Take away a last line without an end: a process was killed while it wrote it."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        whole = file.read()
        if not whole.endswith(b"\n"):
            file.truncate(whole.rfind(b"\n") + 1)
