"""``run.json``: what a run folder says of itself, so that it can go on without its options."""

from __future__ import annotations

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
