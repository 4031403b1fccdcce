"""What a home holds that nothing needs any more, and why; ``stems gc``.

Three kinds of leftovers: shards that no manifest, checkpoint, unfinished run or unfinished build
names; temporaries of processes that died; embeddings, databases, beat features and beat probes of
models that no run holds.
Whatever may still have an owner stays: when a run or a manifest cannot be read, or names shards
that no manifest here records, nothing that it might need goes. Every folder is looked at, and
emptied, under its lock.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, read_json
from ml.locks import LockedError, lock, lock_above
from ml.retrieval.champion import champion_path, read_champion
from ml.shards.collect import (
    NAMED_NOWHERE,
    recorded_sets,
    unused_shard_files,
    unused_url_files,
)
from ml.shards.folders import ShardFolder, built_folder, training_folder
from ml.shards.remote import RemoteError, RemoteFolder, remove_file

_MODEL_FOLDER = re.compile(r"(?:spectrum-)?([0-9a-f]{16})")
"""A model of a run, or the spectrum that is measured with its frontend. Others, such as CLAP's
audio branch, belong to no run."""

_PLACES = (
    "shards",
    "runs",
    "embeddings",
    "lancedb",
    "scores",
    "labels",
    "tracks",
    "beats",
    "reports",
)
"""Folders of a home in which temporaries are looked for; corpora belong to their owners."""


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A file or folder that can go."""

    path: Path | str
    """A URL where it is in an object store."""
    n_bytes: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """What was found."""

    found: list[Leftover] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """What was left alone although it may be unused: one sentence each."""

    @property
    def n_bytes(self) -> int:
        """Bytes of everything found."""
        return sum(leftover.n_bytes for leftover in self.found)


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What training runs and the champion hold."""

    shards: dict[str, str] = field(default_factory=dict)
    """Fingerprint of a split → who started from it."""
    models: set[str] = field(default_factory=set)
    unclear: list[str] = field(default_factory=list)
    """What could not be read, one sentence each: it may hold anything."""


def collect_leftovers(
    layout: DataLayout, *, delete: bool = False, has_remote: bool = False
) -> Leftovers:
    """Find what nothing needs; with ``delete``, remove it.

    Args:
        layout: the home.
        delete: remove what is found, each thing under the lock of its folder.
        has_remote: look at shards at a URL too. Only for who knows that no other home trains from
            there: what other homes need is not known here.

    Raises:
        ml.shards.remote.RemoteError: a URL cannot be read.
    """
    holdings = read_holdings(layout)
    leftovers = Leftovers(kept=list(holdings.unclear))
    _collect_temporaries(layout, leftovers, delete=delete)
    _collect_shards(layout, holdings, leftovers, delete=delete, has_remote=has_remote)
    if not holdings.unclear:
        _collect_models(layout, holdings, leftovers, delete=delete)
    return leftovers


def read_holdings(layout: DataLayout) -> Holdings:
    """What the runs of a home, finished or not, and its champion hold."""
    holdings = Holdings()
    for run in sorted(path for path in layout.runs.glob("*") if path.is_dir()):
        manifests = [*run.glob(f"*/{MANIFEST_NAME}"), *run.glob(f"checkpoints/*/{MANIFEST_NAME}")]
        described = [*manifests, *run.glob("run.json")]
        if not described:
            holdings.unclear.append(f"{run} does not say what it was trained on")
        for path in described:
            try:
                _hold(holdings, read_json(path), run.name)
            except (ArtifactError, AttributeError, KeyError, TypeError) as error:
                holdings.unclear.append(f"{path} does not say what it holds ({error!r})")
    if champion_path(layout).is_file():
        try:
            champion = read_champion(layout)
            holdings.models.update(filter(None, (champion.model_id, champion.previous)))
        except ArtifactError as error:
            holdings.unclear.append(str(error))
    return holdings


def _hold(holdings: Holdings, described: dict[str, Any], run: str) -> None:
    """Note what a ``run.json`` or a checkpoint's manifest names."""
    if "identity" in described:
        trained_on = described["identity"]["shards"]
    else:
        ids = (described["model_id"], described.get("phase_1_model_id"))
        holdings.models.update(filter(None, ids))
        trained_on = described.get("shards", ())  # an imported model has seen no shards
    holdings.shards.update(dict.fromkeys(trained_on, run))


def _collect_temporaries(layout: DataLayout, leftovers: Leftovers, *, delete: bool) -> None:
    for path in (found for place in _PLACES for found in _temporaries(layout.home / place)):
        owner = lock_above(path, layout.home)
        if owner is None:
            leftovers.kept.append(f"{path}: no lock tells whether it is still being written")
            continue
        with _locked(owner, leftovers) as is_free:
            if is_free and path.exists():
                _take(leftovers, path, "a temporary of a process that has ended", delete=delete)


def _temporaries(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") and path.name.endswith(".tmp"):
            yield path
        elif path.is_dir() and not path.is_symlink() and path.suffix != ".lance":
            yield from _temporaries(path)


def _collect_shards(
    layout: DataLayout,
    holdings: Holdings,
    leftovers: Leftovers,
    *,
    delete: bool,
    has_remote: bool,
) -> None:
    parent = layout.shards("corpus").parent
    folders = _folders(parent)
    try:
        sets = [found for folder in folders for found in recorded_sets(folder).values()]
    except ArtifactError as error:
        leftovers.kept.append(f"all shards: {error}")
        return
    known = set().union(*sets)
    for unknown in sorted(holdings.shards.keys() - known):
        leftovers.kept.append(
            f"all shards: run {holdings.shards[unknown]} was trained on a set "
            f"({unknown[:12]}) that no manifest here records"
        )
    if holdings.unclear or not holdings.shards.keys() <= known:
        return
    for folder in folders:
        with _locked(folder / ".lock", leftovers) as is_free:
            if is_free:
                _collect_folder(folder, holdings, leftovers, delete=delete)
            if is_free and has_remote and (remote := _remote_folder(layout, folder.name)):
                _collect_remote(folder, remote, holdings, leftovers, delete=delete)


def _collect_folder(
    folder: Path, holdings: Holdings, leftovers: Leftovers, *, delete: bool
) -> None:
    try:
        unused = list(unused_shard_files(folder, holdings.shards))
    except ArtifactError as error:
        leftovers.kept.append(f"{folder}: {error}")
        return
    for path, reason in unused:
        _take(leftovers, path, reason, delete=delete)


def _remote_folder(layout: DataLayout, corpus: str) -> ShardFolder | None:
    """The shards of a corpus at a URL, where they were built or training reads them."""
    places = (built_folder(layout, corpus), training_folder(layout, corpus))
    return next((place for place in places if isinstance(place, RemoteFolder)), None)


def _collect_remote(
    folder: Path, remote: ShardFolder, holdings: Holdings, leftovers: Leftovers, *, delete: bool
) -> None:
    try:
        unused = list(unused_url_files(folder, holdings.shards, remote))
    except RemoteError:
        raise
    except ArtifactError as error:
        leftovers.kept.append(str(error))
        return
    for name, n_bytes in unused:
        place = remote.where(name)
        leftovers.found.append(Leftover(path=place, n_bytes=n_bytes, reason=NAMED_NOWHERE))
        if delete:
            remove_file(place)


def _collect_models(
    layout: DataLayout, holdings: Holdings, leftovers: Leftovers, *, delete: bool
) -> None:
    embeddings = layout.embeddings("model", "corpus").parent.parent
    features = layout.beat_features("model", "corpus").parent.parent
    for parent in (embeddings, layout.lancedb, features):
        for folder in _folders(parent):
            # A database has no lock of its own: who fills it has just embedded a corpus.
            owner = embeddings / folder.name if parent == layout.lancedb else folder
            _collect_model(folder, folder.name, owner, holdings, leftovers, delete=delete)
    for folder in _folders(layout.beat_probes("model").parent):
        try:
            model_id = str(read_json(folder / MANIFEST_NAME)["model_id"])
        except (ArtifactError, KeyError, TypeError) as error:
            leftovers.kept.append(f"{folder} does not say whose probes it holds ({error!r})")
        else:
            _collect_model(folder, model_id, folder, holdings, leftovers, delete=delete)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("*") if path.is_dir())


def _collect_model(
    folder: Path,
    model_id: str,
    owner: Path,
    holdings: Holdings,
    leftovers: Leftovers,
    *,
    delete: bool,
) -> None:
    """Take a folder of what a model made, unless a run holds the model or a lock is held."""
    named = _MODEL_FOLDER.fullmatch(model_id)
    if named is None:
        leftovers.kept.append(f"{folder}: it is not of a trained model")
    elif named[1] not in holdings.models:
        with contextlib.ExitStack() as stack:
            locks = sorted(owner.rglob(".lock"))
            if all([stack.enter_context(_locked(path, leftovers)) for path in locks]):
                reason = f"no run, champion or earlier champion is model {named[1]}"
                _take(leftovers, folder, reason, delete=delete)


@contextlib.contextmanager
def _locked(path: Path, leftovers: Leftovers) -> Iterator[bool]:
    """Hold a lock; False (and a note) where another process holds it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(path))
        except LockedError as error:
            leftovers.kept.append(str(error))
            yield False
        else:
            yield True


def _take(leftovers: Leftovers, path: Path, reason: str, *, delete: bool) -> None:
    size = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
    leftovers.found.append(Leftover(path=path, n_bytes=size, reason=reason))
    if delete and path.is_dir():
        shutil.rmtree(path)
    elif delete:
        path.unlink()
