"""What the bytes of an audio file promise, read before a decoder is asked.

A header may say less than there is (a recorder that lost power writes 0, a pipe cannot seek back),
more (a download that broke off), or nothing at all (an MP3 without a Xing tag is guessed at). Which
of these it is decides who decodes a file and whether what was decoded is all of it.
"""

from __future__ import annotations

import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO

_UNKNOWN = (range(0, 1), range(0x7FFF_E000, 0x8000_0001), range(0xFFFF_F000, 1 << 32))
"""Sizes of 32 bits that pipes and unfinished recordings leave: no promise."""
_MAX_CHUNKS = 1000
_MAX_CHUNK_BYTES = 1 << 20
"""Of a chunk that is read, not skipped."""
_TAIL_BYTES = 1 << 17
"""An Ogg page is at most 65,307 bytes long."""
_OGG_END = 4
"""Flag of the last page of a stream."""
_MIN_REST_BYTES = 1 << 14
"""Less behind the audio of a WAV is no audio."""
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS", b"3DI")
_ODD_CHUNKS = (b"fmt ", b"id3 ", b"ID3 ", b"_PMX", b"cue ", b"SMED", b"    ")
SIGNATURE_BYTES = 1 << 16
"""So much of a file tells whether it may be audio."""
_OF_FFMPEG = (
    b"\x1aE\xdf\xa3",
    b"0&\xb2u",
    b"\0\0\x01\xba",
    b"\x0bw",
    b"#!AMR",
    b"wvpk",
    b"MAC ",
    b"TTA",
)
_OF_SNDFILE = (
    b"NIST_1A",
    b" paf",
    b"fap ",
    b"PVF1",
    b"2BIT",
    b"d\xa3",
    b"\x01\x04",
    b"\0\0\x03\xe8",
)
_NAMES = (b"Creative Voice File", b"ALawSoundFile", b"Extended Instrument", b"MATLAB 5.0")
_SIGNATURES = (*_OF_FFMPEG, *_OF_SNDFILE, *_NAMES, b"DSD ", b".RMF", b".ra\xfd", b"\xf0~", bytes(4))
"""What else audio begins with that FFmpeg or libsndfile takes."""
_LATER = {4: (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"uuid")}
_LATER |= {2: (b"\xa3d",), 8: (b"\0\2\0\0",)}
"""What it has at some place after its beginning: boxes of an MP4, IRCAM, HTK."""
_SYNC = re.compile(rb"\xff[\xe2-\xe5\xf0-\xf5\xf8-\xfd]")
"""How a frame of MPEG audio (layers II and III) or of AAC begins."""
_MIN_FRAMES = 8
_MP3_SLACK_BYTES = 8192
"""Tags that stand behind the last frame."""
_MP3_TAG_BYTES = 1 << 16
"""How far the first frame is looked for behind what else stands in front."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says about its length and place; the default says nothing against it."""

    has_length: bool = True
    """Whether a decoder that believes the header reads all there is."""
    share: float = 1.0
    """How much of the promised audio is in the file, 1: all, or nothing was promised."""
    is_cut: bool = False
    """Whether it ends within what it announced, by whatever length it says."""
    is_longer: bool = False
    """Whether the audio goes on behind the length that the header says."""
    promised_s: float | None = None
    """Length that is promised, where ``share`` cannot say it."""
    has_end: bool = True
    """Whether the mark that ends such a file is there."""
    pieces: tuple[tuple[int, int], ...] = ()
    """First byte and end of each of several files in it, one behind the other."""
    place_s: float | None = None
    """Where it begins in its session, in s (``TimeReference`` of a ``bext`` chunk)."""


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How a format of chunks is laid out."""

    start: int
    """Where the first chunk begins."""
    size: str
    """Format of a chunk's size for ``struct``."""
    data: bytes
    """Id of the chunk that holds the audio."""
    skip: int = 0
    """Bytes of it that are no audio."""
    id_bytes: int = 4
    align: int = 2
    counts_itself: bool = False
    """Whether a chunk's size includes its id and size."""


_LAYOUTS = {
    b"RIFF": _Layout(start=12, size="<I", data=b"data"),
    b"RF64": _Layout(start=12, size="<I", data=b"data"),
    b"BW64": _Layout(start=12, size="<I", data=b"data"),
    b"RIFX": _Layout(start=12, size=">I", data=b"data"),
    b"FORM": _Layout(start=12, size=">I", data=b"SSND", skip=8),
    b"caff": _Layout(start=8, size=">q", data=b"data", skip=4, align=1),
    b"riff": _Layout(start=40, size="<Q", data=b"data", id_bytes=16, align=8, counts_itself=True),
}
"""First four bytes of a file → how its chunks are laid out."""


def may_be_audio(head: bytes) -> bool:
    """Tell whether any decoder need be asked about a file.

    Args:
        head: its first ``SIGNATURE_BYTES``, or all of it.
    """
    if head[:4] in (*_LAYOUTS, *_READERS) or head.startswith((*_TAGS, *_SIGNATURES)):
        return True
    is_transport = head[:189:188] == b"GG"  # MPEG-TS: packets of 188 bytes
    if is_transport or any(head.startswith(found, at) for at, found in _LATER.items()):
        return True
    frames = Counter(_SYNC.findall(head)).most_common(1)
    return bool(frames) and frames[0][1] >= _MIN_FRAMES


def read_header(path: Path) -> Header:
    """Read what a file promises; one that cannot be understood promises nothing.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        magic = file.read(16)
        try:
            return _reader_of(path, magic)(path, file, os.fstat(file.fileno()).st_size)
        except (struct.error, ArithmeticError, LookupError, ValueError):
            return Header()  # damaged: the decoders say what is wrong


def _reader_of(path: Path, magic: bytes) -> Callable[[Path, BinaryIO, int], Header]:
    if layout := _LAYOUTS.get(magic[:4]):
        return partial(_of_chunks, layout)
    if magic[:4] in _READERS:
        return _READERS[magic[:4]]
    if magic[4:8] == b"ftyp":
        return _of_mp4
    is_mp3 = magic.startswith((*_TAGS, b"\xff", b"\0")) or path.suffix.lower() == ".mp3"
    return _of_mp3 if is_mp3 else lambda *_: Header()


def _of_chunks(layout: _Layout, path: Path, file: BinaryIO, size: int) -> Header:  # noqa: ARG001
    place, long_size, rate_hz = None, None, 0
    for name, begin, length in _chunks(file, size, layout):
        if name == b"ds64":
            long_size = struct.unpack_from("<8xQ", file.read(16))[0]
        elif name == b"fmt " and layout.data == b"data":
            (rate_hz,) = struct.unpack_from(f"{layout.size[0]}4xI", file.read(8))
        elif name == b"bext" and length <= _MAX_CHUNK_BYTES:
            (place,) = struct.unpack_from("<338xQ", file.read(346))
        elif name == layout.data:
            if long_size is not None and length == 0xFFFF_FFFF:
                length = long_size
            is_short = layout.size in ("<I", ">I") and any(length in known for known in _UNKNOWN)
            is_unknown = length <= 0 or (is_short and length != long_size)
            there = max(0, size - begin - layout.skip)
            promised = length - layout.skip
            share = 1.0 if is_unknown or promised <= there else there / promised
            is_longer = not is_unknown and _goes_on(file, size, begin + length)
            return Header(
                has_length=not (is_unknown and length <= 0) and begin <= size and not is_longer,
                is_longer=is_longer,
                share=share,
                place_s=place / rate_hz if place and rate_hz else None,
            )
    return Header()


def _chunks(file: BinaryIO, size: int, layout: _Layout) -> Iterator[tuple[bytes, int, int]]:
    """Walk the chunks: id, where its content begins (the file stands there), its length."""
    place, head = layout.start, layout.id_bytes + struct.calcsize(layout.size)
    for _ in range(_MAX_CHUNKS):
        file.seek(place)
        said = file.read(head)
        if len(said) < head:
            return
        (length,) = struct.unpack_from(layout.size, said, layout.id_bytes)
        if layout.counts_itself:
            length -= head
        yield said[:4], place + head, length
        if length < 0:
            return
        place += head + length + (-length % layout.align)
        if place >= size:
            return


def _goes_on(file: BinaryIO, size: int, end: int) -> bool:
    """Tell whether what stands behind the audio is more of it: no chunk, no tag, no zeros."""
    if size - end < _MIN_REST_BYTES:
        return False
    file.seek(end)
    rest = file.read(_MIN_REST_BYTES)
    is_chunk = any(rest[n : n + 4].isascii() and rest[n : n + 4].isalnum() for n in (0, 1))
    is_chunk |= any(rest[n : n + 4] in _ODD_CHUNKS for n in (0, 1))
    return not (is_chunk or rest.startswith(_TAGS) or not any(rest))


def _of_mp4(path: Path, file: BinaryIO, size: int) -> Header:  # noqa: ARG001
    """Walk the boxes of an MP4 to see whether the last one ends behind the file."""
    place = 0
    for _ in range(_MAX_CHUNKS):
        file.seek(place)
        head = file.read(16).ljust(16, b"\0")
        (length,) = struct.unpack_from(">I", head)
        if length == 1:
            (length,) = struct.unpack_from(">Q", head, 8)
        if length < 8 or place + length >= size:
            return Header(is_cut=length >= 8 and place + length > size)
        place += length
    return Header()


def _of_flac(path: Path, file: BinaryIO, size: int) -> Header:
    """Look whether ``STREAMINFO`` knows the number of samples: the last 36 of these 64 bits."""
    file.seek(18)
    (bits,) = struct.unpack(">Q", file.read(8))
    return Header(
        has_length=bits & ((1 << 36) - 1) > 0,
        pieces=_pieces(path, size, re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")),
    )


def _of_ogg(path: Path, file: BinaryIO, size: int) -> Header:
    """Look whether the last page is one that ends its stream, and for streams behind the first."""
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    page = tail.rfind(b"OggS")
    return Header(
        has_end=page >= 0 and len(tail) > page + 5 and bool(tail[page + 5] & _OGG_END),
        pieces=_pieces(path, size, re.compile(rb"OggS\x00\x02"), before=rb"OggS\x00[\x04-\x07]"),
    )


def _pieces(
    path: Path, size: int, start: re.Pattern[bytes], before: bytes = b""
) -> tuple[tuple[int, int], ...]:
    """Find files that were joined: where each starts, the last page of the one ``before`` it."""
    if not size:
        return ()
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        begins = [found.start() for found in start.finditer(content)]
        if len(begins) < 2:
            return ()
        if before:
            begins = [
                place
                for place in begins
                if not place or re.search(before, content[max(0, place - _TAIL_BYTES // 2) : place])
            ]
    return tuple(pairwise((*begins, size))) if len(begins) > 1 else ()


def _of_au(path: Path, file: BinaryIO, size: int) -> Header:  # noqa: ARG001
    file.seek(4)
    start, length = struct.unpack(">II", file.read(8))
    if any(length in known for known in _UNKNOWN) or length <= size - start:
        return Header()
    return Header(share=max(0, size - start) / length)


_READERS = {b"fLaC": _of_flac, b"OggS": _of_ogg, b".snd": _of_au}
"""First four bytes of other files → who reads their header."""


def _of_mp3(path: Path, file: BinaryIO, size: int) -> Header:  # noqa: ARG001
    """Compare the bytes that a Xing or Info tag counts with those that are there.

    Where there are more and another file follows (``cat a.mp3 b.mp3``), these are its pieces. One
    piece is what stands behind something that is no ID3 tag: by it libsndfile knows an MP3 only if
    it is called so, and FFmpeg takes the tag's frame and the padding for audio, 50 ms of it.
    """
    file.seek(0)
    has_other = not file.read(3).startswith((b"ID3", b"\xff"))
    pieces, begin = [], 0
    while tag := _tag_of_mp3(file, begin):
        there = size - tag.start
        if tag.size >= there - _MP3_SLACK_BYTES:
            pieces.append((tag.start, size))
            if tag.size <= there + _MP3_SLACK_BYTES:
                return Header(pieces=tuple(pieces) if has_other or len(pieces) > 1 else ())
            return Header(has_length=False, promised_s=tag.lasts_s if len(pieces) == 1 else None)
        pieces.append((tag.start, tag.start + tag.size))
        begin = tag.start + tag.size
    return Header(has_length=False)


@dataclass(frozen=True, kw_only=True)
class _Mp3Tag:
    """A Xing or Info tag."""

    start: int
    """Where the frame begins that holds it."""
    size: int
    """Bytes from there to the end of the last frame."""
    lasts_s: float


def _tag_of_mp3(file: BinaryIO, begin: int) -> _Mp3Tag | None:
    """Read the tag of the MP3 that begins there, behind an ID3 tag or at most 64 KiB of others."""
    file.seek(begin)
    head = file.read(10)
    if head[:3] == b"ID3":
        a, b, c, d = head[6:10]
        begin += 10 + (a << 21 | b << 14 | c << 7 | d)
    file.seek(begin)
    block = file.read(_MP3_TAG_BYTES)
    place = max(block.find(b"Xing"), block.find(b"Info"))
    frame = block.rfind(b"\xff", 0, max(0, place))
    if place < 0 or frame < 0:
        return None
    flags, frames, size = struct.unpack_from(">III", block, place + 4)
    if flags & 3 != 3 or not frames or not size:
        return None
    rate_hz, samples = _frame_of_mp3(block[frame : frame + 4])
    return _Mp3Tag(start=begin + frame, size=size, lasts_s=frames * samples / rate_hz)


def _frame_of_mp3(head: bytes) -> tuple[int, int]:
    """Read rate in Hz and samples of a frame from its header."""
    version = head[1] >> 3 & 3  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    rate_hz = (44100, 48000, 32000)[head[2] >> 2 & 3] // {3: 1, 2: 2, 0: 4}[version]
    return rate_hz, 1152 if version == 3 else 576
