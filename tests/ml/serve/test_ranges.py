"""Ranges of files, by the examples of RFC 9110 and by cutting bytes."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from ml.serve.ranges import byte_range


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
def test_reads_a_range(header: str, expected: tuple[int, int] | None) -> None:
    assert byte_range(header, 10_000) == expected


def test_an_empty_file_has_no_range() -> None:
    assert byte_range("bytes=0-", 0) is None
    assert byte_range("bytes=-5", 0) is None


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
