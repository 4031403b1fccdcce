"""Which files of a folder of shards nothing names any more.

A shard is named by the current manifest, by a replaced manifest that a training run started from
(runs remember the fingerprint of a split of it), or by the tasks of an unfinished build. Everything
else of the form ``<split>-<number>-<digest>`` is unused; other files are nobody's business here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST_NAME, ArtifactError, read_json
from ml.shards.folders import ShardFolder
from ml.shards.index import (
    INDEX_SUFFIX,
    REPLACED,
    UNFINISHED_NAME,
    read_index_head,
    read_shards_manifest,
    split_fingerprint,
)

NAMED_NOWHERE = "no manifest, checkpoint, unfinished run or unfinished build names it"
_SHARD_FILE = re.compile(r"(?:train|valid|test)-\d{6,}-[0-9a-f]{8}(?:\.tar|\.index\.json)")


def recorded_sets(folder: Path) -> dict[Path, set[str]]:
    """The manifests of a folder, current and replaced, with the fingerprints runs know them by."""
    paths = [folder / MANIFEST_NAME, *sorted((folder / REPLACED).glob("*.json"))]
    return {path: _fingerprints(path) for path in paths if path.is_file()}


def unused_shard_files(folder: Path, held: Collection[str]) -> Iterator[tuple[Path, str]]:
    """Files that can go, with the reason; the folder's lock is held.

    Args:
        folder: the shards of a corpus; without a current manifest nothing of it can go.
        held: fingerprints of splits that training runs and checkpoints name.

    Raises:
        ArtifactError: a manifest cannot be read: what it names is unknown.
    """
    sets = recorded_sets(folder)
    named = _named(folder, sets, held) | _unfinished(folder)
    for path, fingerprints in sets.items():
        if path.name != MANIFEST_NAME and not fingerprints & set(held):
            yield path, "a replaced manifest that no run or checkpoint started from"
    for path in sorted(folder.iterdir()):
        if _SHARD_FILE.fullmatch(path.name) and _tar_name(path.name) not in named:
            yield path, NAMED_NOWHERE


def unused_url_files(
    folder: Path, held: Collection[str], remote: ShardFolder
) -> Iterator[tuple[str, int]]:
    """Names and sizes of files at a URL that can go; the lock of the folder here is held.

    Args:
        folder: the shards of a corpus in this home, whose manifests say what is in use.
        held: fingerprints of splits that training runs and checkpoints of this home name.
        remote: where the shards of the corpus lie.

    Raises:
        ArtifactError: a manifest cannot be read, or a build has not come to its end: what it has
            put there is unknown.
        ml.shards.remote.RemoteError: the URL cannot be read.
    """
    from ml.shards.remote import file_sizes

    url = remote.where("").rstrip("/")
    if (folder / UNFINISHED_NAME).is_file():
        raise ArtifactError(f"{url}: a build is unfinished; end it with: stems shards build")
    there = file_sizes(url)
    named = _named(folder, recorded_sets(folder), held)
    if MANIFEST_NAME in there:
        named |= _names(remote.manifest())
    for name, n_bytes in sorted(there.items()):
        if _SHARD_FILE.fullmatch(name) and _tar_name(name) not in named:
            yield name, n_bytes


def _named(folder: Path, sets: Mapping[Path, set[str]], held: Collection[str]) -> set[str]:
    """Shards that the current manifest or one that a run started from lists."""
    named = _names(read_shards_manifest(folder))
    for path, fingerprints in sets.items():
        if fingerprints & set(held):
            named |= _names(read_json(path))
    return named


def _fingerprints(path: Path) -> set[str]:
    shards = _shards(read_json(path), path)
    return {split_fingerprint(shards, split) for split in {entry["split"] for entry in shards}}


def _shards(manifest: Any, path: Path) -> list[dict[str, Any]]:
    try:
        return list(manifest["shards"])
    except (KeyError, TypeError):
        raise ArtifactError(f"{path} lists no shards; make them again or delete it") from None


def _names(manifest: dict[str, Any]) -> set[str]:
    return {entry["name"] for entry in manifest["shards"]}


def _unfinished(folder: Path) -> set[str]:
    """Shards that a build made before it was stopped; the next build takes them over."""
    path = folder / UNFINISHED_NAME
    if not path.is_file():
        return set()
    tasks = set(read_json(path)["tasks"])
    heads = (read_index_head(found) for found in folder.glob(f"*{INDEX_SUFFIX}"))
    return {head.name for head in heads if head.task in tasks}


def _tar_name(name: str) -> str:
    """The shard that a file belongs to."""
    return name.removesuffix(INDEX_SUFFIX).removesuffix(".tar") + ".tar"
