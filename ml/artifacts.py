"""Where artifacts lie, how they are named, written and reused. No orchestration here.

An artifact is a folder with a ``manifest.json`` that is written last, by rename. The manifest holds
the artifact's *identity* (configuration and the fingerprints of its inputs); the fingerprint of the
identity is its version. A builder asks ``find_current`` first and does nothing when the version on
disk is the one it would build. ``git_revision`` says which program made it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml.kinds import KINDS, ArtifactKind
from ml.plain import jsonable

MANIFEST_NAME = "manifest.json"
CRASH_AT = "STEMS_CRASH_AT"
_crash_points = itertools.count(1)
_FULL_BYTES = 64 << 10
"""What a library may leave of a disk that it found full."""
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE


class ArtifactError(ValueError):
    """An artifact is missing, damaged, of another format, or does not fit its consumer."""


@dataclass(frozen=True, kw_only=True)
class DataLayout:
    """Where everything lies below one home folder (``STEMS_HOME``)."""

    home: Path
    """The folder that holds all artifacts; made on first write."""
    shards_uri: str | None = None
    """Where training reads shards, a folder a corpus: a path from ``home`` or a URL; None: where
    they are built."""
    shard_cache_gb: float = 50.0
    """Bound of ``shard_cache``."""
    rendered_gb: float = 50.0
    """How much audio rendered from MIDI files ``stems gc`` leaves."""
    lancedb_uri: str | None = None
    """Where the LanceDB databases lie: a path from ``home`` or a URL; None: ``lancedb``."""

    @property
    def config_path(self) -> Path:
        """The user's settings."""
        return self.home / "config.yaml"

    @property
    def dagster_home(self) -> Path:
        """Dagster's instance: runs, events, partitions."""
        return self.home / "dagster"

    @property
    def mlflow(self) -> Path:
        """MLflow's database and artifacts."""
        return self.home / "mlflow"

    @property
    def corpora(self) -> Path:
        """Corpora that we make ourselves."""
        return self.home / "corpora"

    @property
    def runs(self) -> Path:
        """Training runs, one folder each."""
        return self.home / "runs"

    @property
    def models_index(self) -> Path:
        """``models.json``: which model folder each model name stands for now."""
        return self.runs / "models.json"

    @property
    def lancedb(self) -> Path:
        """LanceDB databases, one per model, and ``champion.json``."""
        return self.home / "lancedb"

    @property
    def logs(self) -> Path:
        """Logs of processes that Dagster's assets started."""
        return self.home / "logs"

    @property
    def reports(self) -> Path:
        """HTML reports."""
        return self.home / "reports"

    @property
    def clap(self) -> Path:
        """CLAP's checkpoint and vocabulary (``stems labels fetch``)."""
        return self.home / "models" / "clap"

    def tracks(self, corpus: str) -> Path:
        """Return the folder of the ``corpus_tracks`` table of a corpus."""
        return self.home / "tracks" / corpus

    def music(self, corpus: str) -> Path:
        """Return the folder of tempo and key of the tracks of a corpus."""
        return self.home / "music" / corpus

    def labels(self, corpus: str) -> Path:
        """Return the folder of the ``label_embeddings`` of a corpus."""
        return self.home / "labels" / corpus

    def shards(self, corpus: str) -> Path:
        """Return the folder of the ``stem_shards`` of a corpus."""
        return self.home / "shards" / corpus

    def training_shards(self, corpus: str) -> Path | str:
        """Return the path or URL that training reads the ``stem_shards`` of a corpus from."""
        if self.shards_uri is None:
            return self.shards(corpus)
        if "://" in self.shards_uri:
            return f"{self.shards_uri.rstrip('/')}/{corpus}"
        return self.home / self.shards_uri / corpus

    @property
    def shard_cache(self) -> Path:
        """Where shards from a URL are kept while they are read."""
        return self.home / "cache" / "shards"

    def embeddings(self, model_id: str, corpus: str) -> Path:
        """Return the folder of the embeddings of a corpus by one model."""
        return self.home / "embeddings" / model_id / corpus

    @property
    def beats(self) -> Path:
        """What beat tracking makes: features of tracks, and probes."""
        return self.home / "beats"

    def beat_features(self, model_id: str, corpus: str) -> Path:
        """Return the folder of the ``beat_features`` of a corpus by one model."""
        return self.beats / "features" / model_id / corpus

    def beat_probes(self, model: str) -> Path:
        """Return the folder of the beat probes on one model."""
        return self.beats / "probes" / model

    def scores(self, evaluation: str, corpus: str) -> Path:
        """Return the folder of the scores of one evaluation (``retrieval``) on a corpus."""
        return self.home / "scores" / evaluation / corpus


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a builder returns: the folder, its version, and what to tell people about it."""

    path: Path
    """The folder with ``manifest.json``."""
    fingerprint: str
    """Version: the fingerprint of the identity (Dagster's data version)."""
    reused: bool = False
    """True when nothing had to be built."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """Counts and figures for people: JSON scalars only."""


def fingerprint(value: Any) -> str:
    """Compute the SHA-256 (64 hex digits) of ``value`` as canonical JSON."""
    text = json.dumps(jsonable(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_fingerprint(path: Path) -> str:
    """Compute the SHA-256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


CONTENT_DIGITS = 16
"""Of such a fingerprint that tell contents apart: 64 bits among millions of files."""


def put(aside: Path, path: Path, rename: Callable[[Path, Path], object] | None = None) -> None:
    """Rename what was written aside to its place, so that a power cut leaves all of it or nothing.

    Its bytes reach the disk before its name does, and its name before this returns.

    Args:
        aside: a file, or a folder with all that is in it.
        path: in the same folder; a file there is replaced.
        rename: gives it its name; None: as the system does.
    """
    for written in (*aside.rglob("*"), aside) if aside.is_dir() else (aside,):
        sync(written)
    crash_point()
    (rename or Path.replace)(aside, path)
    sync(path.parent)
    crash_point()


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that keeps no folders of its own
            raise
    finally:
        os.close(handle)


def crash_point() -> None:
    """Kill this process if ``STEMS_CRASH_AT`` is the number of this call in it; only tests set it.

    Whatever changes what is on disk for good comes by here: before and after it does.
    """
    if os.environ.get(CRASH_AT) == str(next(_crash_points)):
        os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Give a file beside ``path`` that becomes ``path`` when the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        with _system_errors(path):
            yield aside
        aside.chmod(0o644)
        put(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def write_folder_aside(path: Path) -> Iterator[Path]:
    """Give a folder beside ``path`` that becomes ``path`` when the block ends without error.

    A folder already at ``path`` is replaced: no reader finds none, where the file system can
    exchange two names (all of Linux's own; NFS cannot).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _folder_beside(path)
    try:
        with _system_errors(path):
            yield aside
        aside.chmod(0o755)
        put(aside, path, _replace_folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Raise what the system refused a library as ``OSError``.

    Polars, PyTorch and libsndfile each have an error of their own for a full disk; the latter two
    do not even say that it is full.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        refusals = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        refusal = next((x for x in refusals if os.strerror(x) in str(error)), None)
        if refusal is None and shutil.disk_usage(path.parent).free < _FULL_BYTES:
            refusal = errno.ENOSPC
        if refusal is None:
            raise
        raise OSError(refusal, os.strerror(refusal), str(path)) from error


def _replace_folder(aside: Path, path: Path) -> None:
    """Put a folder in the place of another, which is then ``aside``, or removed."""
    if exchange(aside, path):
        return
    if path.exists():
        old = _folder_beside(path)
        path.replace(old / "old")
        aside.replace(path)
        shutil.rmtree(old)
    else:
        aside.replace(path)


def _folder_beside(path: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))


def exchange(one: Path, other: Path) -> bool:
    """Give two paths each other's names in one step; False where the system does not."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    return rename is not None and rename(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, aside and renamed."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(jsonable(value), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ArtifactError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not JSON ({error}); delete it and build again") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ArtifactError: the file is missing, is not JSON, or holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise ArtifactError(
            f"{path} holds a {type(found).__name__}, expected an object; delete it and build again"
        )
    return found


def read_manifest(folder: Path, kind: ArtifactKind) -> dict[str, Any]:
    """Read the manifest of an artifact.

    Args:
        folder: the artifact.
        kind: says in which format this program reads it, and which command makes it.

    Raises:
        ArtifactError: no manifest, not JSON, or another format; names the command.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ArtifactError(
            f"{folder} holds no {MANIFEST_NAME}; make it with: {kind.remedy(folder)}"
        )
    manifest = read_object(path)
    version = manifest.get("format_version")
    if version != kind.format_version:
        raise ArtifactError(
            f"{path} has format version {version!r}, this program reads {kind.format_version}; "
            f"use the program that made it, or make it again with: {kind.remedy(folder)}"
        )
    return manifest


def other_formats(layout: DataLayout) -> Iterator[tuple[Path, ArtifactKind, Any]]:
    """Find the artifacts of a home that this program does not read: folder, kind, its format."""
    for kind in KINDS:
        for path in sorted(layout.home.glob(f"{kind.folders}/{MANIFEST_NAME}")):
            try:
                version = read_object(path).get("format_version")
            except ArtifactError:
                version = None
            if version != kind.format_version:
                yield path.parent, kind, version


def identity_fingerprint(identity: Mapping[str, Any], kind: ArtifactKind) -> str:
    """Compute the version of an artifact with this identity in the present format of its kind."""
    return fingerprint({"identity": identity, "format_version": kind.format_version})


def find_current(folder: Path, identity: Mapping[str, Any], kind: ArtifactKind) -> Artifact | None:
    """Find the artifact on disk if it has exactly this identity and format, else None."""
    try:
        manifest = read_manifest(folder, kind)
    except ArtifactError:
        return None
    wanted = identity_fingerprint(identity, kind)
    summary = manifest.get("summary")
    if manifest.get("fingerprint") != wanted or not isinstance(summary, dict):
        return None
    return Artifact(path=folder, fingerprint=wanted, reused=True, summary=summary)


def finish(
    folder: Path,
    identity: Mapping[str, Any],
    kind: ArtifactKind,
    /,
    *,
    summary: Mapping[str, Any],
    **more: Any,
) -> Artifact:
    """Write ``manifest.json`` (the last file of an artifact) and return the artifact.

    ``more`` are further top-level manifest entries (lists of files, statistics).
    """
    version = identity_fingerprint(identity, kind)
    manifest = {
        "format_version": kind.format_version,
        "fingerprint": version,
        "identity": identity,
        "summary": summary,
        **more,
    }
    write_json(folder / MANIFEST_NAME, manifest)
    return Artifact(path=folder, fingerprint=version, summary=dict(summary))


@functools.cache
def git_revision() -> str:
    """Return the program's git revision, ``+`` when files were changed; ``unknown`` outside git."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()
