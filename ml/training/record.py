"""``metrics.jsonl`` in the run folder: the record of a run, whatever becomes of tracking."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml.artifacts import read_json, write_json

RECORD_NAME = "metrics.jsonl"
SHIPPED_NAME = "mlflow.json"
"""What of the record a tracking server has: run id, lines shipped, last step shipped."""


class MetricsRecord:
    """``metrics.jsonl``: one line per logged step, ``{"step", "time", "metrics"}``."""

    def __init__(self, run_folder: Path, *, from_step: int) -> None:
        """Open for appending; lines after ``from_step`` (of a run that was killed) are dropped."""
        self.path = run_folder / RECORD_NAME
        lines = read_record(self.path)
        kept = [line for line in lines if line["step"] <= from_step]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        shipped = run_folder / SHIPPED_NAME
        if shipped.is_file() and (state := read_json(shipped))["lines"] > len(kept):
            # What was shipped of the dropped lines must not be sent again when it is recomputed.
            sent = [line["step"] for line in lines[: state["lines"]]]
            through = max([state["through_step"], *sent])
            write_json(shipped, state | {"lines": len(kept), "through_step": through})

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a line; it is on disk when this returns."""
        line = {"step": step, "time": time.time(), "metrics": dict(metrics)}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_record(path: Path) -> list[dict[str, Any]]:
    """The lines of a record; a half-written last line (the process was killed) is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
