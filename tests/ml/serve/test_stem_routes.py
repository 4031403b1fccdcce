"""Ranges of files, by the examples of RFC 9110 and by cutting bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from ml.serve.security import add_handlers
from ml.serve.stem_routes import OpenFile

CONTENT = bytes(i * i % 251 for i in range(10_000))


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Any]:
    """Ask for a range of a file that is removed once it is open."""

    def ask(header: str, content: bytes = CONTENT) -> Any:
        path = tmp_path / "file"
        path.write_bytes(content)
        app = FastAPI()
        add_handlers(app)

        @app.get("/")
        async def file() -> OpenFile:
            answer = OpenFile(path.open("rb"), "audio/wav")
            path.unlink()
            return answer

        return TestClient(app).get("/", headers={"Range": header})

    return ask


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-499", (0, 500)),
        ("bytes=500-999", (500, 1000)),
        ("bytes=-500", (9500, 10_000)),
        ("bytes=9500-", (9500, 10_000)),
        ("bytes=0-0", (0, 1)),
        ("bytes=-1", (9999, 10_000)),
        ("bytes= 0 - 9 ", (0, 10)),
        ("bytes=9000-99999", (9000, 10_000)),
        ("bytes=-99999", (0, 10_000)),
        ("bytes=10000-", None),
        ("bytes=-0", None),
        ("bytes=5-2", (0, 10_000)),  # not valid: ignored
        ("bytes=-", (0, 10_000)),
        ("bytes=0-1,5-6", (0, 10_000)),  # several: answered with the whole
        ("items=0-5", (0, 10_000)),
        ("bytes=one-two", (0, 10_000)),
    ],
)
def test_reads_a_range(
    ask: Callable[..., Any], header: str, expected: tuple[int, int] | None
) -> None:
    answer = ask(header)
    if expected is None:
        assert answer.status_code == 416
        assert answer.headers["content-range"] == "bytes */10000"
        return
    first, end = expected
    assert answer.content == CONTENT[first:end]
    if answer.status_code == 206:
        assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/10000"
    else:
        assert (answer.status_code, first, end) == (200, 0, 10_000)


def test_an_empty_file_has_no_range(ask: Callable[..., Any]) -> None:
    assert ask("bytes=0-", b"").status_code == 416
    assert ask("bytes=-5", b"").status_code == 416
    assert ask("items=0-5", b"").content == b""


def test_sends_what_was_asked_for(client: TestClient, mix_id: str) -> None:
    link = f"/api/mixes/{mix_id}/audio"
    whole = client.get(link)
    size = len(whole.content)
    assert whole.status_code == 200
    assert whole.headers["accept-ranges"] == "bytes"
    for header, (first, end) in {
        "bytes=0-99": (0, 100),
        f"bytes=100-{size - 1}": (100, size),
        "bytes=-7": (size - 7, size),
        "bytes=300000-": (300_000, size),
    }.items():
        part = client.get(link, headers={"Range": header})
        assert part.status_code == 206
        assert part.content == whole.content[first:end]
        assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{size}"
        assert part.headers["content-length"] == str(end - first)
    outside = client.get(link, headers={"Range": f"bytes={size}-"})
    assert outside.status_code == 416
    assert outside.headers["content-range"] == f"bytes */{size}"
    assert str(size) in outside.json()["detail"]


def test_a_range_of_another_version_is_the_whole(client: TestClient, mix_id: str) -> None:
    link = f"/api/mixes/{mix_id}/audio"
    etag = client.get(link).headers["etag"]
    ranged = {"Range": "bytes=0-9"}
    assert client.get(link, headers={**ranged, "If-Range": etag}).status_code == 206
    assert client.get(link, headers={**ranged, "If-Range": '"other"'}).status_code == 200
    assert client.get(link, headers={"If-None-Match": etag}).status_code == 304
    assert client.get(link, headers={"If-None-Match": '"other"'}).status_code == 200
    piece = client.get(link, params={"start_s": 1, "duration_s": 1})
    assert piece.headers["etag"] != etag
    part = client.get(link, params={"start_s": 1, "duration_s": 1}, headers={"Range": "bytes=4-7"})
    assert part.content == piece.content[4:8]
