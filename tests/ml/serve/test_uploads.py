"""Uploads: nothing over a bound is kept or waited for, nothing lies outside the folder."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.testclient import TestClient

from ml.locks import lock
from ml.retrieval.queries.retriever import Retrievers
from ml.serve.app import build_app, remove_leftovers
from ml.serve.limits import ServeLimits
from ml.serve.sounds import Sound
from ml.serve.uploads import Decoders, UploadDesk
from ml.settings import Settings

APE_TAG = b"APETAGEX" + struct.pack("<IIII8x", 2000, 32, 0, 0xA000_0000)
"""An empty one, which a decoder must step over."""
Wav = Callable[..., bytes]
Noise = Callable[..., np.ndarray]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files of this process."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def strict(
    served_settings: Settings, retrievers: Retrievers, scratch: Path
) -> Iterator[TestClient]:
    """A client of a server that takes 300 kB."""
    assert scratch.is_dir()
    app = build_app(served_settings, retrievers, limits=ServeLimits(upload_bytes=300_000))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def files(folder: Path) -> list[str]:
    """What was written there, but for the lock that keeps it from the next server."""
    found = sorted(path.name for path in folder.rglob("*") if path.is_file())
    return [name for name in found if name != ".lock"]


def test_a_large_upload_is_refused_before_it_is_read(strict: TestClient, scratch: Path) -> None:
    read = []

    def body() -> Iterator[bytes]:
        for _ in range(100):
            read.append(1)
            yield b"RIFF" + bytes(99_996)

    answer = strict.post("/api/mixes", content=b"RIFF", headers={"Content-Length": "2147483648"})
    assert answer.status_code == 413
    assert "2,147,483,648 bytes or more; expected at most 300,000" in answer.json()["detail"]
    answer = strict.post("/api/mixes", content=body())  # in parts, without a length
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"
    assert files(scratch) == []


def test_a_large_choice_is_refused(strict: TestClient) -> None:
    large = b'{"corpus": "' + b"x" * 600_000
    answer = strict.post("/api/tracks/mix", content=large)
    assert answer.status_code == 413
    assert "600,012 bytes were sent; expected at most 500,000" in answer.json()["detail"]
    answer = strict.post("/api/tracks/mix", content=iter([large]))  # in parts, without a length
    assert answer.status_code == 411


def test_only_the_private_folder_is_written_to_and_it_goes(
    strict: TestClient, scratch: Path, make_noise: Noise, make_wav: Wav
) -> None:
    answer = strict.post("/api/mixes", content=make_wav(make_noise(1, 1.5)))
    assert answer.status_code == 201, answer.text
    (folder,) = scratch.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    kept = [path.suffix or path.name for path in sorted(folder.iterdir())]
    assert kept == [".lock", ".npy", ".wav"]  # the upload itself is gone
    strict.__exit__(None, None, None)
    assert list(scratch.iterdir()) == []
    strict.__enter__()


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *((kind, bytes) for kind in ("FLAC", "OGG", "MP3", "AIFF", "AU", "W64", "CAF")),
        pytest.param("RF64", lambda file: b"BW64" + file[4:], id="BW64"),
        pytest.param("MP3", lambda file: bytes(2048) + file, id="zeros before MP3"),
        pytest.param("MP3", lambda file: APE_TAG + file, id="APE tag before MP3"),
    ],
)
def test_takes_what_the_command_line_takes_whatever_its_name(
    strict: TestClient,
    make_noise: Noise,
    tmp_path: Path,
    kind: str,
    change: Callable[[bytes], bytes],
) -> None:
    soundfile.write(tmp_path / "mix", make_noise(1, 1.5, 1), 44_100, format=kind)
    content = change((tmp_path / "mix").read_bytes())
    answer = strict.post("/api/mixes", content=content, params={"name": "readme.txt"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == "readme.txt"
    assert answer.json()["waveform"]["duration_s"] == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize(
    "head",
    [b"%PDF-1.7\n", b"PK\x03\x04", b"\x89PNG\r\n", b"\xff\xd8\xff", b"\x7fELF", b"words "],
)
def test_what_begins_as_no_audio_does_is_refused_by_its_first_bytes(
    tmp_path: Path, head: bytes
) -> None:
    sent = []

    async def receive() -> dict[str, object]:
        sent.append(head * 4000 if head == b"words " else head + bytes(20_000))
        return {"type": "http.request", "body": sent[-1], "more_body": True}

    async def send() -> None:
        request = Request({"type": "http", "headers": []}, receive)
        async with UploadDesk(tmp_path, ServeLimits()).receive(request, "my mix"):
            pass

    with pytest.raises(HTTPException, match="my mix cannot be decoded") as refused:
        asyncio.run(send())
    assert refused.value.status_code == 415
    assert sum(map(len, sent)) < 100_000  # of a body without an end
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_trickles_is_given_up(tmp_path: Path) -> None:
    async def receive() -> dict[str, object]:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"RIFF", "more_body": True}

    async def send() -> None:
        limits = ServeLimits(upload_slow_s=0.2, upload_bytes_per_s=1000)
        request = Request({"type": "http", "headers": []}, receive)
        async with UploadDesk(tmp_path, limits).receive(request, "my mix"):
            pass

    with pytest.raises(HTTPException, match="my mix comes too slowly") as refused:
        asyncio.run(send())
    assert refused.value.status_code == 408
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_left_goes_and_what_a_running_one_has_stays(scratch: Path) -> None:
    killed, running, foreign = (scratch / name for name in ("stems-serve-a", "stems-serve-b", "c"))
    for folder in (killed, running, foreign):
        folder.mkdir()
        (folder / ".lock").touch()
        (folder / "upload-x").write_bytes(b"RIFF")
    (scratch / "stems-serve-link").symlink_to(foreign)
    with lock(running / ".lock"):
        remove_leftovers()
    assert not killed.exists()
    assert files(running) == files(foreign) == ["upload-x"]


def test_the_same_file_is_the_same_mix(
    strict: TestClient, make_noise: Noise, make_wav: Wav
) -> None:
    content = make_wav(make_noise(1, 1.5))
    first, second = (strict.post("/api/mixes", content=content).json()["id"] for _ in range(2))
    assert first == second


def decode(decoders: Decoders, folder: Path, content: bytes) -> Sound:
    (folder / "upload").write_bytes(content)
    return decoders.decode(folder / "upload", folder / "a.wav", folder / "a.npy", "mix.wav")


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        pytest.param(ServeLimits(decode_s=1e-4), "within 0 s; convert it", id="time"),
        pytest.param(ServeLimits(decode_memory_bytes=250 << 20), "", id="memory"),
    ],
)
def test_a_decoder_gets_only_so_much(
    tmp_path: Path, make_wav: Wav, limits: ServeLimits, said: str
) -> None:
    content = make_wav(np.zeros(300 * 44_100, np.int16))
    refused = pytest.raises(HTTPException, match=rf"mix\.wav .*{said}")
    with contextlib.closing(Decoders(limits)) as decoders, refused:
        decode(decoders, tmp_path, content)
    assert [path.name for path in tmp_path.iterdir()] == ["upload"]


def test_one_process_decodes_what_comes_and_another_does_when_it_was_killed(
    tmp_path: Path, make_noise: Noise, make_wav: Wav
) -> None:
    def children() -> set[psutil.Process]:
        return set(psutil.Process().children()) - others

    content, others = make_wav(make_noise(1, 1.0)), set(psutil.Process().children())
    with contextlib.closing(Decoders(ServeLimits())) as decoders:
        first = decode(decoders, tmp_path, content)
        with pytest.raises(HTTPException, match=r"mix\.wav"):
            decode(decoders, tmp_path, content[:40])
        (worker,) = children()
        assert decode(decoders, tmp_path, content) == first
        assert children() == {worker}
        worker.kill()
        worker.wait()
        assert decode(decoders, tmp_path, content) == first
    assert children() == set()
