"""Uploads: taken in within bounds, decoded in processes of their own (``decode_upload``).

What a file is, its content says and the decoders tell: the page takes what the command line takes.
They open nothing but the file (``ml.audio.containers`` lets FFmpeg take none for a playlist).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from starlette.exceptions import HTTPException

from ml.audio.headers import SIGNATURE_BYTES, may_be_audio
from ml.serve.limits import ServeLimits
from ml.serve.security import CLOSE, TRY_AGAIN
from ml.serve.sounds import Sound


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file that has arrived."""

    path: Path
    digest: str
    """SHA-256 of its bytes, 64 hexadecimal digits."""


class UploadDesk:
    """Takes uploads in, so many at a time.

    Args:
        folder: the only place they are written to.
        limits: their bounds.
    """

    def __init__(self, folder: Path, limits: ServeLimits):
        self._folder, self._limits = folder, limits
        self._arriving = 0

    @contextlib.asynccontextmanager
    async def receive(self, request: Request, name: str) -> AsyncIterator[Upload]:
        """Take the body of a request in as a file, which goes when the block ends.

        Raises:
            HTTPException: 413, it is over the bound, said before more than that was read; 408, it
                did not arrive in time or comes too slowly; 415, its first bytes are of no audio;
                503, too many are arriving; 422, it is empty.
        """
        limits = self._limits
        declared = int(request.headers.get("content-length") or 0)
        _check_size(name, declared, limits.upload_bytes)
        if self._arriving >= limits.uploads_at_once:
            sentence = f"{self._arriving} uploads are arriving already; try again soon"
            raise HTTPException(503, sentence, TRY_AGAIN)
        handle, path = tempfile.mkstemp(prefix="upload-", dir=self._folder)
        self._arriving += 1
        try:
            with os.fdopen(handle, "wb") as file:
                digest = await _write(request, name, file, limits)
            yield Upload(path=Path(path), digest=digest)
        finally:
            self._arriving -= 1
            Path(path).unlink(missing_ok=True)


async def _write(request: Request, name: str, file: BinaryIO, limits: ServeLimits) -> str:
    digest, head, size, is_known = hashlib.sha256(), b"", 0, False
    begun_s = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(limits.upload_slow_s) as patience:
            async for part in request.stream():
                size += len(part)
                _check_size(name, size, limits.upload_bytes)
                if not is_known:
                    head = (head + part)[:SIGNATURE_BYTES]
                    is_known = len(head) == SIGNATURE_BYTES
                    if is_known:
                        _check_kind(name, head)
                digest.update(part)
                file.write(part)
                earned_s = limits.upload_slow_s + size / limits.upload_bytes_per_s
                patience.reschedule(begun_s + min(limits.upload_s, earned_s))
    except TimeoutError:
        lasted_s = asyncio.get_running_loop().time() - begun_s
        sentence = f"{name} comes too slowly ({size:,} bytes in {lasted_s:.0f} s); try again"
        raise HTTPException(408, sentence, CLOSE) from None
    if not size:
        raise HTTPException(422, f"{name} is empty (0 bytes); expected audio, choose another file")
    _check_kind(name, head)
    return digest.hexdigest()


class Decoders:
    """Processes that decode uploads, each ready for the next; any thread may ask.

    There are as many as were asked at one time. They end with this process, however it ends.

    Args:
        limits: time, memory, length.
    """

    def __init__(self, limits: ServeLimits):
        self._limits = limits
        self._idle: list[subprocess.Popen[str]] = []

    def decode(self, upload: Path, wav: Path, npy: Path, name: str) -> Sound:
        """Decode an upload in a process that is killed when it takes too long.

        Args:
            upload: the file.
            wav: takes the audio to play.
            npy: takes the waveform to query with.
            name: what to call the file in errors.

        Raises:
            HTTPException: it cannot be decoded, is too long, or takes too long; nothing is left.
        """
        limits = self._limits
        asked = {
            "source": str(upload),
            "wav": str(wav),
            "npy": str(npy),
            "name": name,
            "longest_s": limits.mix_s,
            "memory_bytes": limits.decode_memory_bytes,
            "seconds": limits.decode_s,
        }
        text, code = self._ask(json.dumps(asked))
        answer = json.loads(text) if code == "0" else {}
        if (fields := answer.get("sound")) is not None:
            return Sound(**fields | {"peaks": tuple(fields["peaks"])})
        ended = f"{name} cannot be decoded (the decoder ended with code {code}); convert it to wav"
        if code == str(-signal.SIGALRM):
            ended = f"{name} cannot be decoded within {limits.decode_s:.0f} s; convert it to wav"
        for path in (wav, npy):
            path.unlink(missing_ok=True)
        raise HTTPException(415, answer.get("problem", ended))

    def _ask(self, request: str) -> tuple[str, str]:
        """Give an idle process a request: its answer and exit code."""
        worker = self._take()
        assert worker.stdin is not None
        assert worker.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.write(f"{request}\n")
            worker.stdin.flush()
        text, _, code = worker.stdout.readline().rstrip("\n").rpartition("\t")
        if code:
            self._idle.append(worker)
        else:
            code = str(worker.wait())
        return text, code

    def _take(self) -> subprocess.Popen[str]:
        with contextlib.suppress(IndexError):
            while (worker := self._idle.pop()).poll() is not None:  # it was killed
                pass
            return worker
        # One thread of BLAS: others would be missing in a fork, and reserve address space.
        return subprocess.Popen(
            [sys.executable, "-m", "ml.serve.decode_upload"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def close(self) -> None:
        """End the processes."""
        while self._idle:
            self._idle.pop().communicate()


def _check_kind(name: str, head: bytes) -> None:
    if not may_be_audio(head):
        sentence = f"{name} cannot be decoded (it does not begin as audio does); send an audio file"
        raise HTTPException(415, sentence, CLOSE)


def _check_size(name: str, size: int, most: int) -> None:
    if size > most:
        raise HTTPException(
            413,
            f"{name} has {size:,} bytes or more; expected at most {most:,}; convert it to flac, "
            f"or cut it",
            CLOSE,
        )
