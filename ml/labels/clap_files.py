"""CLAP's files: what is published, where they lie on this machine, how to get them once.

Weights: LAION's music checkpoint (Wu et al., ICASSP 2023), the one that Riou et al.
(arXiv:2411.19806v2, section II-E) condition with. Tokenizer: RoBERTa's byte-pair vocabulary.
Nothing is loaded here, and once the files are there nothing asks the hub.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml import kinds
from ml.artifacts import (
    Artifact,
    ArtifactError,
    file_fingerprint,
    find_current,
    fingerprint,
    finish,
    put,
    read_json,
    write_json,
)
from ml.locks import lock

if TYPE_CHECKING:
    from ml.settings import Settings

HUB = "https://huggingface.co"
MAX_TOKENS = 77
"""Longer texts are cut, the two marks around them included."""
TOKENIZER_FILES = ("vocab.json", "merges.txt")
_TOKENIZER_FOLDER = "tokenizer"
_MB = 1_000_000


class DownloadError(RuntimeError):
    """A file could not be downloaded, or it is not the one that was expected."""


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file on the hub, as of the revision named."""

    path: str
    """Where it goes, relative to the folder of CLAP."""
    repository: str
    """Owner and name on the hub."""
    revision: str
    """Commit of the repository."""
    size_bytes: int
    sha256: str
    """64 hexadecimal digits; of large files the hub publishes it, too."""

    def url(self, host: str = HUB) -> str:
        """Where to get it."""
        name = Path(self.path).name
        return f"{host.rstrip('/')}/{self.repository}/resolve/{self.revision}/{name}"


CHECKPOINT = PublishedFile(
    path="music_audioset_epoch_15_esc_90.14.pt",
    repository="lukewys/laion_clap",
    revision="b3708341862f581175dba5c356a4ebf74a9b6651",
    size_bytes=2_352_471_003,
    sha256="fae3e9c087f2909c28a09dc31c8dfcdacbc42ba44c70e972b58c1bd1caf6dedd",
)
"""HTSAT-base and RoBERTa, 512 dimensions, trained on music and AudioSet."""
VOCABULARY = PublishedFile(
    path=f"{_TOKENIZER_FOLDER}/vocab.json",
    repository="FacebookAI/roberta-base",
    revision="e2da8e2f811d1448a5b465c236feacd80ffbac7b",
    size_bytes=898_823,
    sha256="9e7f63c2d15d666b52e21d250d2e513b87c9b713cfa6987a82ed89e5e6e50655",
)
MERGES = PublishedFile(
    path=f"{_TOKENIZER_FOLDER}/merges.txt",
    repository=VOCABULARY.repository,
    revision=VOCABULARY.revision,
    size_bytes=456_318,
    sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
)
PUBLISHED = (CHECKPOINT, VOCABULARY, MERGES)
"""All that CLAP needs, 2.35 GB."""


@dataclass(frozen=True, kw_only=True)
class ClapFiles:
    """The files of one CLAP on this machine; they need not be there."""

    checkpoint: Path
    """Weights in LAION's format."""
    tokenizer: Path
    """Folder with ``vocab.json`` and ``merges.txt``."""

    @property
    def missing(self) -> list[Path]:
        """Files that are not there."""
        needed = [self.checkpoint, *(self.tokenizer / name for name in TOKENIZER_FILES)]
        return [path for path in needed if not path.is_file()]

    def require(self) -> None:
        """Check that all files are there.

        Raises:
            ArtifactError: one is not; says how to get it.
        """
        if self.missing:
            raise ArtifactError(
                f"{self.missing[0]} does not exist: CLAP needs LAION's checkpoint "
                f"{CHECKPOINT.path} and RoBERTa's {' and '.join(TOKENIZER_FILES)}; get them once "
                f"with: stems labels fetch (or name yours in label_encoder.checkpoint and "
                f"label_encoder.tokenizer)"
            )

    def fingerprint(self) -> str:
        """Equal for files with the same content: 64 hexadecimal digits.

        Hashing 2.4 GB takes seconds, so the hash is remembered beside the checkpoint together
        with the file's size and time of change.

        Raises:
            ArtifactError: a file is missing.
        """
        self.require()
        tokenizer = [file_fingerprint(self.tokenizer / name) for name in TOKENIZER_FILES]
        parts = {"checkpoint": _remembered_sha256(self.checkpoint), "tokenizer": tokenizer}
        return fingerprint(parts | {"max_tokens": MAX_TOKENS})


def clap_files(
    folder: Path, checkpoint: Path | None = None, tokenizer: Path | None = None
) -> ClapFiles:
    """Name the files of CLAP: those given, else those in its folder.

    Args:
        folder: where ``stems labels fetch`` puts them (``DataLayout.clap``).
        checkpoint: weights that lie elsewhere.
        tokenizer: folder of the vocabulary; default: beside a checkpoint that was named, if it is
            there, else in ``folder``.
    """
    places = [folder / _TOKENIZER_FOLDER]
    if checkpoint is not None:
        places = [checkpoint.parent / _TOKENIZER_FOLDER, checkpoint.parent, *places]
    found = [place for place in places if (place / TOKENIZER_FILES[0]).is_file()]
    return ClapFiles(
        checkpoint=checkpoint or folder / CHECKPOINT.path,
        tokenizer=tokenizer or (found or places)[0],
    )


def clap_files_of(settings: Settings) -> ClapFiles:
    """Name the files of CLAP that a home's settings give; they need not be there."""
    named = (settings.label_encoder.checkpoint, settings.label_encoder.tokenizer)
    checkpoint, tokenizer = (path and settings.home / path.expanduser() for path in named)
    return clap_files(settings.layout.clap, checkpoint, tokenizer)


def _remembered_sha256(path: Path) -> str:
    stat = path.stat()
    is_same = {"size_bytes": stat.st_size, "changed_ns": stat.st_mtime_ns}
    memory = path.with_name(f".{path.name}.sha256.json")
    if memory.is_file():
        found = read_json(memory)
        if isinstance(found, dict) and is_same.items() <= found.items() and "sha256" in found:
            return found["sha256"]
    sha256 = file_fingerprint(path)
    with contextlib.suppress(OSError):  # a read-only folder: hashed again next time
        write_json(memory, is_same | {"sha256": sha256})
    return sha256


def fetch_clap(
    folder: Path, *, host: str = HUB, files: Sequence[PublishedFile] = PUBLISHED
) -> Artifact:
    """Download CLAP from the hub, or what is missing of it.

    Args:
        folder: where it goes (``DataLayout.clap``).
        host: the hub, or a server with the same paths.
        files: what to get; each is checked against its published hash.

    Returns:
        The folder; its summary holds the hash of each file.

    Raises:
        DownloadError: a file cannot be had, or is not the published one.
        LockedError: another process is fetching.
    """
    identity = {"files": {file.path: file.sha256 for file in files}}
    found = find_current(folder, identity, kinds.CLAP_FILES)
    if found is not None and all(_has_size(folder, file) for file in files):
        return found
    with lock(folder / ".lock"):
        for file in files:
            path = folder / file.path
            if not (_has_size(folder, file) and file_fingerprint(path) == file.sha256):
                _download(file, file.url(host), path)
        return finish(
            folder,
            identity,
            kinds.CLAP_FILES,
            summary={file.path: file.sha256 for file in files},
            urls={file.path: file.url(host) for file in files},
        )


def _has_size(folder: Path, file: PublishedFile) -> bool:
    path = folder / file.path
    return path.is_file() and path.stat().st_size == file.size_bytes


def _download(file: PublishedFile, url: str, path: Path) -> None:
    """Get a file; nothing is at ``path`` before it is whole and its hash is right.

    ``hf_hub_download`` deletes what has arrived when a process ends; its inner ``http_get`` goes on
    from ``<name>.part`` beside the target, in another process tomorrow too, and asks any server.
    """
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if part.is_file() and part.stat().st_size > file.size_bytes:
        part.unlink()
    _receive(url, part, file.size_bytes)
    sha256 = file_fingerprint(part)
    if sha256 != file.sha256:
        part.unlink()
        raise DownloadError(
            f"{url} gave a file with SHA-256 {sha256}, expected {file.sha256}; it was deleted: try "
            f"again, and if that gives the same, do not trust this server"
        )
    put(part, path)


def _receive(url: str, part: Path, size_bytes: int) -> None:
    """Append what is missing of a file; after a break it is asked for again a few times."""
    from httpx2 import HTTPError
    from huggingface_hub.file_download import http_get

    with part.open("ab") as target:
        has_bytes = target.tell()
        _require_space(part, size_bytes - has_bytes)
        headers = {"Accept-Encoding": "identity"}
        try:
            http_get(url, target, resume_size=has_bytes, headers=headers, expected_size=size_bytes)
        except (HTTPError, OSError) as error:
            if isinstance(error, OSError) and "Consistency check" in str(error):
                target.truncate(0)  # an answer that came to its end is another file
            raise DownloadError(
                f"{url} gave no whole file of {size_bytes} bytes ({' '.join(str(error).split())}); "
                f"what has arrived of it is kept: the same command goes on from there"
            ) from None
        finally:
            target.flush()
            if not part.stat().st_size:
                part.unlink()


def _require_space(part: Path, missing_bytes: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if free < missing_bytes:
        raise DownloadError(
            f"{part.parent} has {free / _MB:.0f} MB free, expected {missing_bytes / _MB:.0f} MB "
            f"for {part.stem}; make room or set STEMS_HOME to another disk"
        )
