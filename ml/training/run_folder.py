"""``run.json``: what a run folder says of itself, so that it can go on without its options.

[record] ``metrics.jsonl`` in the run folder: the record of a run, whatever becomes of tracking.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml.artifacts import ArtifactError, read_json, write_json
from ml.plain import flat, jsonable

RUN_NAME = "run.json"


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
        datasets: what the shards of these corpora held (``run_datasets.describe_datasets``).

    Raises:
        ArtifactError: the folder describes another run; names the fields.
    """
    path = folder / RUN_NAME
    found = read_json(path) if path.is_file() else {}
    if found and (fields := differing_fields(found["identity"], jsonable(identity))):
        raise ArtifactError(
            f"{path} describes another run: {'; '.join(fields)}; remove the folder, or bring back "
            "the file"
        )
    described = jsonable(
        {"identity": identity, "corpora": corpora, "tags": tags, "datasets": datasets}
    )
    if described != found:
        write_json(path, described)


def read_run(folder: Path) -> dict[str, Any]:
    """``identity``, and in younger folders ``corpora``, ``tags`` and ``datasets``.

    Raises:
        ArtifactError: this is no run; names those beside it.
    """
    path = folder / RUN_NAME
    if not path.is_file():
        known = sorted(p.parent.name for p in folder.parent.glob(f"*/{RUN_NAME}"))
        raise ArtifactError(
            f"{folder} is no training run (no {RUN_NAME}); runs there: {', '.join(known) or 'none'}"
        )
    return read_json(path)


def differing_fields(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Each field with another value, as ``optimizer.learning_rate: 0.0003 → 0.001``, by name.

    Args:
        found: plain JSON, nested: a configuration or the identity of a run.
        wanted: likewise; its value stands behind the arrow.
    """
    old, new = _named(found), _named(wanted)
    return [
        f"{name}: {_text(old.get(name, UNSET))} → {_text(new.get(name, UNSET))}"
        for name in sorted({*old, *new})
        if old.get(name, UNSET) != new.get(name, UNSET)
    ]


def _named(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted name as ``--set`` takes it: without the ``config.`` of an identity."""
    return {name.removeprefix("config."): value for name, value in flat(nested).items()}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    is_fingerprint = isinstance(value, str) and len(value) > 32
    return value[:12] if is_fingerprint else str(value)


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
