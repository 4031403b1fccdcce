"""What a home holds that nothing needs any more, and why; ``stems gc``.

Three kinds of leftovers: shards that no manifest, checkpoint, unfinished run or unfinished build
names; temporaries of processes that died; embeddings, databases, beat features and beat probes of
models that no run holds.
Whatever may still have an owner stays: when a run or a manifest cannot be read, or names shards
that no manifest here records, nothing that it might need goes. Every folder is looked at, and
emptied, under its lock.

[collect] Which files of a folder of shards nothing names any more.

A shard is named by the current manifest, by a replaced manifest that a training run started from
(runs remember the fingerprint of a split of it), or by the tasks of an unfinished build. Everything
else of the form ``<split>-<number>-<digest>`` is unused; other files are nobody's business here.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, read_json
from ml.locks import LockedError, lock, lock_above
from ml.object_store import RemoteError, remove_file
from ml.shards.folders import RemoteFolder, ShardFolder, built_folder, training_folder
from ml.shards.index import (
    INDEX_SUFFIX,
    REPLACED,
    UNFINISHED_NAME,
    read_index_head,
    read_shards_manifest,
    split_fingerprint,
)
from ml.training.models import champion_path, read_champion

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
        ml.shards.folders.RemoteError: a URL cannot be read.
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
        ml.shards.folders.RemoteError: the URL cannot be read.
    """
    from ml.object_store import file_sizes

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
