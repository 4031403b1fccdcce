"""The files of a run folder: what it is (``run.json``), and what it has measured.

``run.json`` holds the *identity* (what decides the weights), so that a run can go on without its
options. The *record*, ``metrics.jsonl``, holds the numbers, whatever becomes of tracking.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ml.artifacts import (
    MANIFEST_NAME,
    ArtifactError,
    crash_point,
    read_json,
    read_object,
    sync,
    write_aside,
    write_json,
)
from ml.figures import Curve
from ml.mlflow_store import TRAINING_VIEW
from ml.plain import flat, jsonable

RUN_NAME = "run.json"
RECORD_NAME = "metrics.jsonl"
SHIPPED_NAME = "mlflow.json"
"""What of the record a tracking server has: run and experiment id, lines and last step shipped."""
UNSET = "not set"
"""A field at a default that is not written (``ml.plain.added_field``), or one not known then."""


def describe_run(
    folder: Path,
    identity: Mapping[str, Any],
    corpora: Sequence[str],
    tags: Mapping[str, str],
    datasets: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write ``run.json`` into a run folder.

    Args:
        folder: of the run.
        identity: what decides its weights.
        corpora: names of what it is trained on.
        tags: of its tracking run.
        datasets: what the shards of these corpora held (``tracking.describe_datasets``).

    Raises:
        ArtifactError: the folder describes another run; names the fields.
    """
    path = folder / RUN_NAME
    old = read_object(path) if path.is_file() else {}
    if old and (fields := differing_fields(old["identity"], jsonable(identity))):
        raise ArtifactError(
            f"{path} describes another run: {'; '.join(fields)}; remove the folder, or bring back "
            "the file"
        )
    described = jsonable(
        {"identity": identity, "corpora": corpora, "tags": tags, "datasets": datasets}
    )
    if described != old:
        write_json(path, described)


def mlflow_page(checkpoint: Path, run_id: str) -> str:
    """Give the path of the tracking run of a checkpoint below the address of MLflow's pages.

    With its experiment MLflow opens the view of trainings; older runs do not say which it was.
    """
    path = checkpoint.parent / SHIPPED_NAME
    experiment = read_object(path).get("experiment_id") if path.is_file() else None
    if experiment is None:
        return f"#/runs/{run_id}"
    return f"#/experiments/{experiment}/runs/{run_id}?{TRAINING_VIEW}"


def read_run(folder: Path) -> dict[str, Any]:
    """Read ``identity``, and in younger folders ``corpora``, ``tags`` and ``datasets``.

    Raises:
        ArtifactError: this is no run; names those beside it.
    """
    path = folder / RUN_NAME
    if not path.is_file():
        known = sorted(p.parent.name for p in folder.parent.glob(f"*/{RUN_NAME}"))
        raise ArtifactError(
            f"{folder} is no training run (no {RUN_NAME}); runs there: {', '.join(known) or 'none'}"
        )
    return read_object(path)


def latest_checkpoint(run: Path) -> Path | None:
    """Find the checkpoint that a run folder would be resumed from."""
    manifests = (run / "checkpoints").glob(f"step-*/{MANIFEST_NAME}")
    return max((manifest.parent for manifest in manifests), default=None)


def differing_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List each field with another value, as ``optimizer.learning_rate: 0.0003 → 0.001``, by name.

    Args:
        old: plain JSON, nested: a configuration or the identity of a run.
        new: likewise; its value stands behind the arrow.
    """
    old, new = _named(old), _named(new)
    return [
        f"{name}: {_text(old.get(name, UNSET))} → {_text(new.get(name, UNSET))}"
        for name in sorted({*old, *new})
        if old.get(name, UNSET) != new.get(name, UNSET)
    ]


def _named(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Name values as ``--set`` does: dotted, without the ``config.`` of an identity."""
    return {name.removeprefix("config."): value for name, value in flat(nested).items()}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    is_fingerprint = isinstance(value, str) and len(value) > 32
    return value[:12] if is_fingerprint else str(value)


class MetricsRecord:
    """``metrics.jsonl``: one line per logged step, ``{"step", "time", "metrics"}``."""

    def __init__(self, run_folder: Path, *, from_step: int) -> None:
        """Open for appending; lines after ``from_step`` (of a run that was killed) are dropped."""
        self.path = run_folder / RECORD_NAME
        lines = read_record(self.path)
        kept = [line for line in lines if line["step"] <= from_step]
        with write_aside(self.path) as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
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
        sync(self.path)
        crash_point()


def read_record(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a record, but for a half-written last one (the process was killed)."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def last_metrics(path: Path) -> dict[str, Any]:
    """Read the last value of each metric of a record, and its last ``step``."""
    last: dict[str, Any] = {}
    for line in read_record(path):
        last |= line["metrics"] | {"step": line["step"]}
    return last


def record_curves(model: str, lines: Sequence[Mapping[str, Any]]) -> dict[str, list[Curve]]:
    """Take the curves of ``read_record``'s lines: metric without ``valid_`` → its curves."""
    points: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for metric, value in line["metrics"].items():
            if math.isfinite(value):
                points.setdefault(metric, []).append((line["step"], value))
    curves: dict[str, list[Curve]] = {}
    for metric, recorded in points.items():
        steps, values = np.array(recorded).T
        curve = Curve(model=model, steps=steps, values=values, is_valid="/valid_" in metric)
        curves.setdefault(metric.replace("/valid_", "/"), []).append(curve)
    return curves
