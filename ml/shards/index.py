"""The index beside each shard: where each member lies, what is known about it, what is damaged.

``<shard>.tar`` is plain WebDataset and complete in itself; ``<shard>.index.json`` repeats what
``segment.json`` says of every sample and adds byte offsets, so that training reads byte ranges
of the stems it chose and never scans a tar.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ml import kinds
from ml.artifacts import (
    MANIFEST_NAME,
    ArtifactError,
    fingerprint,
    read_json,
    read_manifest,
    write_aside,
)
from ml.plain import dataclass_from, jsonable

Payload = Literal["flac", "pcm16"]

INDEX_SUFFIX = ".index.json"

REPLACED = "replaced"
"""Folder, beside the shards, of the manifests that were current once."""

UNFINISHED_NAME = "unfinished.json"
"""Names the tasks of a build that has not come to its end."""

_SEGMENTS = ',"segments":['
"""Where the head of an index ends; inside a JSON string its quotes would be escaped."""

_CHECKSUM = "checksum"
"""First key of an index: SHA-256 of what stands behind it. One other digit is another place."""
_CHECKSUM_BYTES = len(f'{{"{_CHECKSUM}":"",') + 64

_HEAD_BLOCK = 1 << 16
_MOST_SAMPLES, _MOST_HZ, _MOST_DIM = 1 << 40, 1_000_000, 1 << 20
_TYPES_MET: set[tuple[Any, ...]] = set()

WAV_HEADER_BYTES = 44
"""Bytes before the first sample of a ``pcm16`` member."""

FULL_SCALE = 32768
"""int16 of waveform 1.0: waveform = int16 / FULL_SCALE * gain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedStem:
    """One stem of one segment."""

    stem_id: str
    content_hash: str
    """Fingerprint of the files it was made from."""
    labels: tuple[str, ...]
    """Coarse to fine; empty when unknown."""
    label_rows: tuple[int, ...]
    """Row of the segment's ``labels.npy`` for each label; one row ("music") when there is none."""
    four_class: int
    """Index into ``ml.labels.taxonomy.FOUR_CLASSES``."""
    gain: float
    """waveform = int16 / 32768 * gain."""
    intervals: tuple[tuple[float, float], ...]
    """Where the stem sounds, in seconds from the segment's start."""
    offset: int
    """First byte of the member's data in the tar."""
    size: int
    """Length of the member's data in bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedSegment:
    """One segment: one sample of the shard."""

    key: str
    """Key of the WebDataset sample."""
    corpus: str
    track_id: str
    artist: str | None = None
    title: str | None = None
    """Of the track, where known."""
    start_s: float
    """Where the segment starts in its track."""
    samples: int
    """Length in samples at the shard's rate."""
    texts: tuple[str, ...]
    """Label text of each row of ``labels.npy``."""
    labels_offset: int
    """First byte of row 0 of ``labels.npy`` (float16, little endian) in the tar."""
    stems: tuple[IndexedStem, ...]
    """The stems that sound in the segment, in the order of their members."""


Parts = Sequence[tuple[int, IndexedSegment]]
"""Stored segments in the order of time, each with its first sample from the first one's start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardCounts:
    """What went into a shard and what was left out, in pieces and seconds."""

    tracks: int = 0
    """Tracks with at least one segment in the shard."""
    segments: int = 0
    segment_s: float = 0.0
    stem_s: float = 0.0
    """Stored audio, summed over stems."""
    dropped_segments: int = 0
    """Segments left out because no chunk of them has two sounding stems."""
    dropped_segment_s: float = 0.0
    dropped_stem_s: float = 0.0
    """Audio of stems left out: silent in their segment, or the segment was left out."""

    def __add__(self, other: ShardCounts) -> ShardCounts:
        """Sum, field by field."""
        return ShardCounts(
            **{name: getattr(self, name) + getattr(other, name) for name in self.__slots__}
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardIndex:
    """The index of one shard."""

    name: str
    """File name of the tar."""
    split: str
    number: int
    """Place among the shards of the split."""
    task: str
    """Fingerprint of what the shard was made from."""
    audio: str = ""
    """The same without labels and their encoder: equal where the audio members are; "": unknown."""
    sha256: str
    """Of the tar."""
    bytes: int
    """Size of the tar."""
    rate_hz: int
    payload: Payload
    assigned: tuple[str, ...]
    """Ids of the tracks assigned to the shard, with or without a segment in it."""
    counts: ShardCounts
    segments: tuple[IndexedSegment, ...]


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A sample that could not be read."""

    shard: str
    """Path or URL of the tar."""
    sample: str
    """Key of the sample; empty when it is about the whole shard."""
    problem: str
    """What was found."""

    def __str__(self) -> str:
        """Shard, sample and what was found."""
        sample = f" at sample {self.sample}" if self.sample else ""
        return f"shard {self.shard} is damaged{sample}: {self.problem}"


class DamagedShardError(ArtifactError):
    """A shard is missing, truncated or overwritten."""

    def __init__(self, damage: Damage, corpus: str) -> None:
        """Say what is damaged and what to do."""
        super().__init__(
            f"{damage}; check it with: stems shards inspect {corpus}; make it again with: "
            f"stems shards build {corpus} --fresh; or leave such samples out, counted, with: "
            "pairs.damaged=skip"
        )
        self.damage = damage
        self.corpus = corpus

    def __reduce__(self) -> tuple[type[DamagedShardError], tuple[Damage, str]]:
        """Pickled by its parts: it comes out of worker processes."""
        return type(self), (self.damage, self.corpus)


def index_path(folder: Path, shard_name: str) -> Path:
    """Name the file of a shard's index."""
    return folder / (Path(shard_name).stem + INDEX_SUFFIX)


def write_index(folder: Path, index: ShardIndex) -> None:
    """Write a shard's index beside it (aside, then renamed), with a checksum of all behind it."""
    content = {"format_version": kinds.STEM_SHARDS.format_version, **jsonable(index)}
    content["segments"] = content.pop("segments")  # last, for ``read_index_head``
    rest = json.dumps(content, separators=(",", ":"), allow_nan=False)[1:] + "\n"
    with write_aside(index_path(folder, index.name)) as aside:
        aside.write_text(f'{{"{_CHECKSUM}":"{hashlib.sha256(rest.encode()).hexdigest()}",{rest}')


def read_index(path: Path) -> ShardIndex:
    """Read a shard's index.

    Raises:
        ArtifactError: missing, not JSON, of another format, changed, or not an index.
    """
    content = read_json(path)
    if isinstance(content, dict) and _CHECKSUM in content:  # else it is from before there was one
        found = hashlib.sha256(path.read_bytes()[_CHECKSUM_BYTES:]).hexdigest()
        if found != content[_CHECKSUM]:
            raise ArtifactError(
                f"{path} has SHA-256 {found} behind its checksum, expected {content[_CHECKSUM]}; "
                f"make the shards again with: stems shards build {path.parent.name} --fresh"
            )
    return _index(content, path)


def read_index_head(path: Path) -> ShardIndex:
    """Read a shard's index without its segments: what a build needs, at a fraction of the cost.

    Raises:
        ArtifactError: as ``read_index``.
    """
    head = ""
    with contextlib.suppress(OSError, UnicodeDecodeError), path.open() as file:
        while block := file.read(_HEAD_BLOCK):
            head += block
            if (end := head.find(_SEGMENTS)) >= 0:
                head = head[:end] + ',"segments":[]}'
                break
    try:
        index = _index(json.loads(head), path)
    except ValueError:  # an older order of keys, or damaged; ArtifactError is one
        index = read_index(path)
    return replace(index, segments=())


def read_shards_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder of shards.

    Raises:
        ArtifactError: there is none, or it is of another format or damaged; says what to do.
    """
    manifest = read_manifest(folder, kinds.STEM_SHARDS)
    try:
        if not 0 < operator.index(dim := manifest["label_encoder"]["dim"]) <= _MOST_DIM:
            raise ValueError(f"label vectors of {dim} dimensions")
        for entry in manifest["shards"]:
            if Path(entry["name"]).name != entry["name"] or not isinstance(entry["split"], str):
                raise ValueError(f"the shard {entry['name']!r} of split {entry['split']!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder / MANIFEST_NAME} lists no shards ({type(error).__name__}: {error}); make "
            f"the shards again with: stems shards build {folder.name} --fresh"
        ) from None
    return manifest


def split_fingerprint(shards: Sequence[Mapping[str, Any]], split: str) -> str:
    """Fingerprint the content of a split: what a training run remembers of its shards.

    Args:
        shards: the ``shards`` of a manifest.
        split: train, valid or test.
    """
    return fingerprint([entry for entry in shards if entry["split"] == split])


def _index(content: Any, path: Path) -> ShardIndex:
    version = content.pop("format_version", None) if isinstance(content, dict) else None
    if version != kinds.STEM_SHARDS.format_version:
        raise ArtifactError(
            f"{path} has format version {version!r}, expected {kinds.STEM_SHARDS.format_version}; "
            f"make the shards again with: stems shards build {path.parent.name} --fresh"
        )
    try:
        segments = content.pop("segments")
        content.pop(_CHECKSUM, None)
        index = dataclass_from(ShardIndex, {**content, "segments": []})
        if Path(index.name).name != index.name or not 0 < index.rate_hz <= _MOST_HZ:
            raise ValueError(f"name {index.name!r}, {index.rate_hz} Hz")
        return replace(
            index,
            assigned=_texts(index.assigned),
            segments=tuple(_segment(segment, index.bytes) for segment in segments),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is not a shard index ({error}); "
            f"make the shards again with: stems shards build {path.parent.name} --fresh"
        ) from None


def _segment(content: Mapping[str, Any], tar_bytes: int) -> IndexedSegment:
    _check_types(IndexedSegment, content)
    stems = tuple(_stem(stem, tar_bytes) for stem in content["stems"])
    samples, begins = content["samples"], content["labels_offset"]
    if not (0 < samples <= _MOST_SAMPLES and 0 <= begins <= tar_bytes):
        raise ValueError(f"{samples} samples, labels at byte {begins} of {tar_bytes}")
    return IndexedSegment(**{**content, "texts": _texts(content["texts"]), "stems": stems})


def _stem(content: Mapping[str, Any], tar_bytes: int) -> IndexedStem:
    _check_types(IndexedStem, content)
    offset, size = content["offset"], content["size"]
    if not 0 <= offset <= offset + size <= tar_bytes:
        raise ValueError(f"{size} bytes from byte {offset} of {tar_bytes}")
    return IndexedStem(
        **{
            **content,
            "labels": _texts(content["labels"]),
            "label_rows": tuple(map(operator.index, content["label_rows"])),
            "intervals": tuple((float(start), float(end)) for start, end in content["intervals"]),
        }
    )


def _check_types(kind: type[Any], content: Mapping[str, Any]) -> None:
    """Refuse fields of other types; thousands have the same, so each set of types is met once."""
    types = (kind, *((name, type(value)) for name, value in content.items()))
    if types not in _TYPES_MET:
        dataclass_from(kind, content)
        _TYPES_MET.add(types)


def _texts(texts: Iterable[str]) -> tuple[str, ...]:
    found = tuple(texts)
    "".join(found)  # refuses what is no text
    return found
