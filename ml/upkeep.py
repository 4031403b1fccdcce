"""The upkeep of a home over the years: what it holds that can go.

A *leftover* is what nothing needs any more, and why (``stems gc``). Four kinds: shards that no
manifest, checkpoint, unfinished run or unfinished build names; temporaries of processes that died;
embeddings, databases, beat features and beat probes of models that no run holds and that did not
come with the package; rendered audio beyond the bound ``midi.keep_gb``, which is made anew where it
is needed. A shard is named by the current manifest, by a replaced manifest that a training run
started from (runs remember the fingerprint of a split of it), or by the tasks of an unfinished
build; files of other names are nobody's business here.

Whatever may still have an owner stays: when a run or a manifest cannot be read, or names shards
that no manifest here records, nothing that it might need goes. Every folder is looked at, and
emptied, under its lock.

A *removal* takes what was made of one corpus (``stems corpus remove``); its own audio is never
touched, only what was rendered.

What another version or place asks of a home: ``ml.artifacts.other_formats``, ``ml.mlflow_store``.
Making things anew belongs to the folders that make them.
"""

from __future__ import annotations

import contextlib
import glob
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml import kinds
from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, read_json
from ml.corpora.midi.corpus import LISTING
from ml.locks import LockedError, lock, lock_above, require_free
from ml.object_store import RemoteError, file_sizes, remove_file
from ml.settings import Settings, SettingsError
from ml.shards.folders import RemoteFolder, ShardFolder, built_folder, training_folder
from ml.shards.index import (
    INDEX_SUFFIX,
    REPLACED,
    UNFINISHED_NAME,
    read_index_head,
    read_shards_manifest,
    split_fingerprint,
)
from ml.training.models import champion_path, has_starter, read_champion

NAMED_NOWHERE = "no manifest, checkpoint, unfinished run or unfinished build names it"
_MODEL_FOLDER = re.compile(r"(?:spectrum-)?([0-9a-f]{16})")
"""A model of a run, or the spectrum that is measured with its frontend. Others, such as CLAP's
audio branch, belong to no run."""
_SHARD_FILE = re.compile(r"((?:train|valid|test)-\d{6,}-[0-9a-f]{8})(?:\.tar|\.index\.json)")
_PLACES = (
    *("shards", "runs", "embeddings", "lancedb", "scores"),
    *("labels", "tracks", "music", "beats", "reports"),
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
        ml.object_store.RemoteError: a URL cannot be read.
    """
    collector = _Collector(layout, delete=delete)
    collector.collect_temporaries()
    collector.collect_rendered()
    collector.collect_shards(has_remote=has_remote)
    if not collector.holdings.unclear:
        collector.collect_models()
    return collector.leftovers


def read_holdings(layout: DataLayout) -> Holdings:
    """Read what the runs of a home, finished or not, its champion and ``starter`` hold."""
    holdings = Holdings()
    for run in _folders(layout.runs):
        manifests = [*run.glob(f"*/{MANIFEST_NAME}"), *run.glob(f"checkpoints/*/{MANIFEST_NAME}")]
        described = [*manifests, *run.glob("run.json")]
        if not described:
            holdings.unclear.append(f"{run} does not say what it was trained on")
        for path in described:
            try:
                _hold(holdings, read_json(path), run.name)
            except (ArtifactError, AttributeError, KeyError, TypeError) as error:
                holdings.unclear.append(f"{path} does not say what it holds ({error!r})")
    if has_starter():
        holdings.models.add(read_json(kinds.SHIPPED / MANIFEST_NAME)["model_id"])
    if champion_path(layout).is_file():
        try:
            champion = read_champion(layout)
            holdings.models.update(filter(None, (champion.model_id, champion.previous)))
        except ArtifactError as error:
            holdings.unclear.append(str(error))
    return holdings


def recorded_sets(folder: Path) -> dict[Path, set[str]]:
    """Read which sets of shards a folder's manifests, current and replaced, record.

    Returns:
        Manifest → the fingerprints of its splits, which runs know them by.
    """
    paths = [folder / MANIFEST_NAME, *sorted((folder / REPLACED).glob("*.json"))]
    return {path: _fingerprints(path) for path in paths if path.is_file()}


class _Collector:
    """One look at a home."""

    def __init__(self, layout: DataLayout, *, delete: bool) -> None:
        self.layout, self.delete = layout, delete
        self.holdings = read_holdings(layout)
        self.leftovers = Leftovers(kept=list(self.holdings.unclear))

    def collect_temporaries(self) -> None:
        """Take what processes that have ended left half-written."""
        home = self.layout.home
        for path in (path for place in _PLACES for path in _temporaries(home / place)):
            owner = lock_above(path, home)
            if owner is None:
                self._keep(f"{path}: no lock tells whether it is still being written")
                continue
            with self._locked(owner) as is_free:
                if is_free and path.exists():
                    self._take(path, "a temporary of a process that has ended")

    def collect_rendered(self) -> None:
        """Take the oldest songs that were rendered of MIDI files, down to the bound."""
        listings = self.layout.corpora.glob(f"*/{LISTING}")
        songs = [song for listing in listings for song in _folders(listing.parent)]
        songs.sort(key=lambda song: song.stat().st_mtime_ns)
        left = sum(_size(song) for song in songs)
        for song in songs:
            if left <= self.layout.rendered_gb * 1e9:
                return
            with self._locked(song.parent / ".lock") as is_free:
                if is_free:
                    left -= _size(song)
                    self._take(song, "rendered, beyond midi.keep_gb; rendered again when needed")

    def collect_shards(self, *, has_remote: bool) -> None:
        """Take shards that nothing names, if it is known what all runs name."""
        folders = _folders(self.layout.shards("corpus").parent)
        try:
            sets = [recorded for folder in folders for recorded in recorded_sets(folder).values()]
        except ArtifactError as error:
            self._keep(f"all shards: {error}")
            return
        unknown = sorted(self.holdings.shards.keys() - set().union(*sets))
        for fingerprint in unknown:
            self._keep(
                f"all shards: run {self.holdings.shards[fingerprint]} was trained on a set "
                f"({fingerprint[:12]}) that no manifest here records"
            )
        if self.holdings.unclear or unknown:
            return
        for folder in folders:
            with self._locked(folder / ".lock") as is_free:
                if is_free:
                    self._collect_folder(folder)
                if is_free and has_remote and (remote := self._remote_folder(folder.name)):
                    self._collect_remote(folder, remote)

    def collect_models(self) -> None:
        """Take what was made by models that no run holds."""
        embeddings = self.layout.embeddings("model", "corpus").parent.parent
        features = self.layout.beat_features("model", "corpus").parent.parent
        for parent in (embeddings, self.layout.lancedb, features):
            for folder in _folders(parent):
                # A database has no lock of its own: who fills it has just embedded a corpus.
                owner = embeddings / folder.name if parent == self.layout.lancedb else folder
                self._collect_model(folder, folder.name, owner)
        for folder in _folders(self.layout.beat_probes("model").parent):
            try:
                model_id = str(read_json(folder / MANIFEST_NAME)["model_id"])
            except (ArtifactError, KeyError, TypeError) as error:
                self._keep(f"{folder} does not say whose probes it holds ({error!r})")
            else:
                self._collect_model(folder, model_id, folder)

    def _collect_folder(self, folder: Path) -> None:
        held = self.holdings.shards.keys()
        try:
            sets = recorded_sets(folder)
            named = _named(folder, sets, held) | _unfinished(folder)
        except ArtifactError as error:
            self._keep(f"{folder}: {error}")
            return
        for path, fingerprints in sets.items():
            if path.name != MANIFEST_NAME and not fingerprints & held:
                self._take(path, "a replaced manifest that no run or checkpoint started from")
        for path in sorted(folder.iterdir()):
            if (shard := _shard_of(path.name)) and shard not in named:
                self._take(path, NAMED_NOWHERE)

    def _collect_remote(self, folder: Path, remote: ShardFolder) -> None:
        """Take files at a URL, by what the manifests here and there name."""
        url = remote.where("").rstrip("/")
        try:
            if (folder / UNFINISHED_NAME).is_file():  # what it has put there is unknown
                raise ArtifactError(
                    f"{url}: a build is unfinished; end it with: stems shards build"
                )
            there = file_sizes(url)
            named = _named(folder, recorded_sets(folder), self.holdings.shards.keys())
            if MANIFEST_NAME in there:
                named |= _names(remote.manifest())
        except RemoteError:
            raise
        except ArtifactError as error:
            self._keep(str(error))
            return
        for name, n_bytes in sorted(there.items()):
            if (shard := _shard_of(name)) and shard not in named:
                place = remote.where(name)
                leftover = Leftover(path=place, n_bytes=n_bytes, reason=NAMED_NOWHERE)
                self.leftovers.found.append(leftover)
                if self.delete:
                    remove_file(place)

    def _remote_folder(self, corpus: str) -> ShardFolder | None:
        """Find the shards of a corpus at a URL, where they were built or training reads them."""
        places = (built_folder(self.layout, corpus), training_folder(self.layout, corpus))
        return next((place for place in places if isinstance(place, RemoteFolder)), None)

    def _collect_model(self, folder: Path, model_id: str, owner: Path) -> None:
        """Take a folder of what a model made, unless a run holds the model or a lock is held."""
        named = _MODEL_FOLDER.fullmatch(model_id)
        if named is None:
            self._keep(f"{folder}: it is not of a trained model")
        elif named[1] not in self.holdings.models:
            with contextlib.ExitStack() as stack:
                locks = sorted(owner.rglob(".lock"))
                if all([stack.enter_context(self._locked(path)) for path in locks]):
                    self._take(folder, f"no run, champion or earlier champion is model {named[1]}")

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[bool]:
        """Hold a lock; False (and a note) where another process holds it.

        Who only looks writes nothing: a lock that is not there is held by nobody.
        """
        with contextlib.ExitStack() as stack:
            try:
                if self.delete:
                    stack.enter_context(lock(path))
                else:
                    require_free(path)
            except LockedError as error:
                self._keep(str(error))
                yield False
            else:
                yield True

    def _keep(self, why: str) -> None:
        self.leftovers.kept.append(why)

    def _take(self, path: Path, reason: str) -> None:
        self.leftovers.found.append(Leftover(path=path, n_bytes=_size(path), reason=reason))
        if self.delete and path.is_dir():
            shutil.rmtree(path)
        elif self.delete:
            path.unlink()


def _hold(holdings: Holdings, described: dict[str, Any], run: str) -> None:
    """Note what a ``run.json`` or a checkpoint's manifest names."""
    if "identity" in described:
        trained_on = described["identity"]["shards"]
    else:
        ids = (described["model_id"], described.get("phase_1_model_id"))
        holdings.models.update(filter(None, ids))
        trained_on = described.get("shards", ())  # an imported model has seen no shards
    holdings.shards.update(dict.fromkeys(trained_on, run))


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("*") if path.is_dir())


def _temporaries(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") and path.name.endswith(".tmp"):
            yield path
        elif path.is_dir() and not path.is_symlink() and path.suffix != ".lance":
            yield from _temporaries(path)


def _fingerprints(path: Path) -> set[str]:
    try:
        shards = list(read_json(path)["shards"])
    except (KeyError, TypeError):
        raise ArtifactError(f"{path} lists no shards; make them again or delete it") from None
    return {split_fingerprint(shards, split) for split in {entry["split"] for entry in shards}}


def _named(folder: Path, sets: dict[Path, set[str]], held: Collection[str]) -> set[str]:
    """List the shards of the current manifest and of those that a run started from."""
    named = _names(read_shards_manifest(folder))
    for path, fingerprints in sets.items():
        if fingerprints & set(held):
            named |= _names(read_json(path))
    return named


def _names(manifest: dict[str, Any]) -> set[str]:
    return {entry["name"] for entry in manifest["shards"]}


def _unfinished(folder: Path) -> set[str]:
    """List shards that a build made before it was stopped; the next build takes them over."""
    path = folder / UNFINISHED_NAME
    if not path.is_file():
        return set()
    tasks = set(read_json(path)["tasks"])
    heads = (read_index_head(index) for index in folder.glob(f"*{INDEX_SUFFIX}"))
    return {head.name for head in heads if head.task in tasks}


def _shard_of(name: str) -> str | None:
    """Name the shard that a file belongs to; None: it is no file of a shard."""
    named = _SHARD_FILE.fullmatch(name)
    return f"{named[1]}.tar" if named else None


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What was, or would be, removed."""

    rows: dict[str, int] = field(default_factory=dict)
    """Database → rows of its tables."""
    folders: list[Path] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """What stays although it is of the corpus: one sentence each."""


def remove_corpus(settings: Settings, name: str, *, delete: bool = False) -> Removal:
    """Find what was made of a corpus and, with ``delete``, remove it; run again, it goes on.

    Rows of all databases go in one version each, so queries see all of the corpus or nothing.
    Shards that a training run was trained on stay: it could not be resumed or repeated.

    Args:
        settings: of the home; nothing in them may need the corpus.
        name: of the corpus, which need not be in the settings any more.
        delete: remove it.

    Raises:
        SettingsError: training, beats or promotion name the corpus, or it is no name of one.
        ArtifactError: there is nothing of such a corpus.
        LockedError: something of it is being made.
    """
    if name in ("", "..") or name != Path(name).name:
        raise SettingsError(f"{name!r} is no name of a corpus; expected one without slashes")
    _refuse_needed(settings, name)
    layout, removal = settings.layout, Removal()
    removal.rows.update(_remove_rows(layout, name, delete=delete))
    for folder in _folders_of(settings, name, removal):
        removal.folders.append(folder)
        if delete:
            with lock(folder / ".lock"):
                shutil.rmtree(folder)
    if not (removal.rows or removal.folders or removal.kept or name in settings.corpora):
        known = ", ".join(sorted(settings.corpora))
        raise ArtifactError(f"{layout.home} holds nothing of a corpus {name!r}; known: {known}")
    return removal


def _refuse_needed(settings: Settings, name: str) -> None:
    needed = {
        "training.corpora": settings.training.corpora,
        "beats.corpora": settings.beats.corpora,
        "beats.heldout": settings.beats.heldout,
        "promotion.corpora": settings.promotion.corpora,
        "promotion.gallery": settings.promotion.gallery,
    }
    places = [key for key, names in needed.items() if name in names]
    if places:
        raise SettingsError(
            f"corpus {name!r} is named by {', '.join(places)} in {settings.layout.config_path}; "
            "take it out there first"
        )


def _remove_rows(layout: DataLayout, name: str, *, delete: bool) -> Iterator[tuple[str, int]]:
    """Remove the rows of each database; yields its URI and how many there are."""
    from ml.retrieval.tables.database import commit, database_uri, open_table, sql_text
    from ml.retrieval.tables.publish import CHUNK_TABLE, STEM_TABLE, count_rows

    models = sorted(path.name for path in layout.lancedb.glob("*") if path.is_dir())
    for uri in (database_uri(layout, model_id) for model_id in models):
        counts = {table: count_rows(uri, table, name) for table in (STEM_TABLE, CHUNK_TABLE)}
        for table_name in (x for x, rows in counts.items() if rows and delete):
            table = open_table(uri, table_name)
            commit(table, lambda table=table: table.delete(f"corpus = {sql_text(name)}"))
        if any(counts.values()):
            yield uri, sum(counts.values())


def _folders_of(settings: Settings, name: str, removal: Removal) -> Iterator[Path]:
    """Find the folders of what was made of the corpus; records of publications first."""
    layout, only = settings.layout, glob.escape(name)
    yield from sorted(layout.lancedb.glob(f"*/published/{only}"))
    yield from sorted(layout.scores("*", name).parent.parent.glob(f"*/{only}"))
    yield from sorted(layout.beat_features("*", name).parent.parent.glob(f"*/{only}"))
    yield from sorted(layout.embeddings("*", name).parent.parent.glob(f"*/{only}"))
    if layout.shards(name).is_dir():
        if users := _trained_on(layout, name):
            removal.kept.append(
                f"{layout.shards(name)} stays, training runs name it, such as {users[0]}; "
                "remove them first"
            )
        else:
            yield layout.shards(name)
    if layout.shards_uri is not None:
        removal.kept.append(f"shards at {layout.training_shards(name)} stay; remove them there")
    made = [layout.labels(name), layout.music(name), layout.tracks(name)]
    if name in settings.corpora and settings.corpora[name].kind == "midi":
        made.append(Path(settings.corpus(name).options["audio"]))
    yield from (path for path in made if path.is_dir())


def _trained_on(layout: DataLayout, name: str) -> list[str]:
    """List runs that were trained on the shards of a corpus, or may have been."""
    holdings = read_holdings(layout)
    known = set().union(*recorded_sets(layout.shards(name)).values())
    users = {run for fingerprint, run in holdings.shards.items() if fingerprint in known}
    return [*sorted(users), *holdings.unclear]
