"""The shards that a run is trained on, as datasets of its tracking run.

https://mlflow.org/docs/latest/ml/dataset/
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST_NAME, read_json
from ml.shards.folders import ShardFolder
from ml.training.run_description import RUN_NAME

SPLIT = "train"
_DIGEST_LENGTH = 36
"""More MLflow does not take."""


def describe_datasets(
    folders: Sequence[ShardFolder], fingerprints: Sequence[str]
) -> list[dict[str, Any]]:
    """What ``run.json`` says of the shards of a run.

    Args:
        folders: of shards, one a corpus.
        fingerprints: of what their training split holds.

    Returns:
        Of each corpus ``name``, ``fingerprint``, ``manifest`` (path or URL) and ``profile``: counts
        and hours of the split.
    """
    return [
        {
            "name": folder.name,
            "fingerprint": fingerprint,
            "manifest": folder.where(MANIFEST_NAME),
            "profile": _profile(folder.manifest()["summary"]),
        }
        for folder, fingerprint in zip(folders, fingerprints, strict=True)
    ]


def send_datasets(client: Any, run_id: str, run_folder: Path) -> None:
    """Log the datasets of a run folder; once more changes nothing.

    Args:
        client: of MLflow.
        run_id: the tracking run.
        run_folder: with ``run.json``; one that was begun before runs told of their datasets has
            none.

    Raises:
        MlflowException: the server did not take them.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    path = run_folder / RUN_NAME
    described = read_json(path).get("datasets", []) if path.is_file() else []
    inputs = [
        DatasetInput(
            Dataset(
                name=found["name"],
                digest=found["fingerprint"][:_DIGEST_LENGTH],
                source_type="s3" if found["manifest"].startswith("s3://") else "local",
                source=json.dumps({"uri": found["manifest"]}),
                profile=json.dumps(found["profile"]),
            ),
            tags=[InputTag("mlflow.data.context", "training")],
        )
        for found in described
    ]
    if inputs:
        client.log_inputs(run_id, inputs)


def _profile(summary: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"{SPLIT}_"
    return {k.removeprefix(prefix): v for k, v in summary.items() if k.startswith(prefix)}
