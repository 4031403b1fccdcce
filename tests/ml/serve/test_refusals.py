"""What the API refuses: in one sentence each, and it goes on answering."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import numpy as np
import pytest
from starlette.testclient import TestClient

Wav = Callable[..., bytes]
Noise = Callable[..., np.ndarray]


@pytest.mark.parametrize(
    "key",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "..%5c..%5cwindows",
        "noises/../../config.yaml",
        "%00",
        "a%00.wav",
        "%0d%0aSet-Cookie:%20a=b",
        "' OR '1'='1",
        "x" * 5000,
        "%ff%fe",
    ],
)
@pytest.mark.parametrize("place", ["/api/stems/{}/audio", "/api/stems/{}/file", "/static/{}"])
def test_path_tricks_find_nothing(client: TestClient, key: str, place: str) -> None:
    answer = client.get(place.format(key))
    assert answer.status_code in (404, 422)
    assert set(answer.json()) == {"detail"}
    assert "root:" not in answer.text


@pytest.mark.parametrize("key", ["noises/tab\there", "noises/two\nlines", "noises/del\x7f's #1?"])
@pytest.mark.parametrize("link", ["audio", "peaks", "file"])
def test_any_key_that_a_file_may_have_is_looked_up(client: TestClient, key: str, link: str) -> None:
    answer = client.get(f"/api/stems/{quote(key, safe='')}/{link}")
    assert answer.status_code == 404
    assert f"no stem {key!r} is in the table" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({}, 422, "nothing to search by"),
        ({"mix": "../../etc/passwd"}, 422, "mix"),
        ({"mix": "0" * 24}, 404, "send it again"),
        ({"instrument": "bass", "k": 0}, 422, "k:"),
        ({"instrument": "bass", "k": 500}, 422, "k = 500"),
        ({"instrument": "   "}, 422, "blank"),
        ({"instrument": "a\x00b"}, 422, "instrument"),
        ({"instrument": "bass", "where": "label lik 'x'"}, 422, "not understood"),
        ({"instrument": "bass", "where": "no_such_column = 1"}, 422, "not understood"),
        ({"instrument": "bass", "where": "1=1; DROP TABLE stem_embeddings"}, 422, "understood"),
        ({"instrument": "bass", "where": "array_has(labels, 1)"}, 422, "is not understood"),
        ({"instrument": "bass", "where": "duration_s = 'x'"}, 422, "not understood"),
        ({"instrument": "bass", "where": "label IN ()"}, 422, "not understood"),
        ({"instrument": "bass", "like": "noises/0"}, 422, "like goes without"),
        ({"like": "/etc/passwd"}, 404, "no stem"),
        ({"instrument": "bass", "kk": 3}, 422, "kk"),
    ],
)
def test_refuses_in_one_sentence(client: TestClient, asked: dict, status: int, words: str) -> None:
    answer = client.get("/api/search", params=asked)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"these are words, no sound at all", 415, "n.wav cannot be decoded"),
        (b"RIFF" + bytes(60), 415, "n.wav cannot be decoded"),
        (b"#EXTM3U\nfile:///etc/passwd\n", 415, "n.wav cannot be decoded"),
        (b"", 422, "n.wav is empty (0 bytes); expected audio, choose another file"),
        (b"x", 415, "n.wav cannot be decoded"),
        ("silence", 422, "is silent"),
        ("short", 422, "the mix lasts 0.20 s; expected at least 1 s"),
        ("long", 415, "n.wav lasts 61 s; expected at most 60 s"),
    ],
)
def test_refuses_what_is_no_mix(
    client: TestClient,
    make_noise: Noise,
    make_wav: Wav,
    content: bytes | str,
    status: int,
    words: str,
) -> None:
    made = {
        "silence": lambda: make_wav(np.zeros(3 * 8000), 8000),
        "short": lambda: make_wav(make_noise(0, 0.2)),
        "long": lambda: make_wav(0.1 * np.ones(61 * 8000), 8000),
    }
    body = made[content]() if isinstance(content, str) else content
    answer = client.post("/api/mixes", content=body, params={"name": "n.wav"})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert "upload-" not in answer.text  # the name on disk is nobody's business


def test_refuses_a_form_and_foreign_keys(client: TestClient) -> None:
    answer = client.post("/api/mixes", files={"file": ("a.wav", b"RIFF")})
    assert answer.status_code == 415
    assert "came as a form" in answer.json()["detail"]
    wanted = {"corpus": "noises", "track_id": "song 0", "leave_out": ["demo/x"]}
    answer = client.post("/api/tracks/mix", json=wanted)
    assert answer.status_code == 422
    assert "is none of track song 0" in answer.json()["detail"]
    answer = client.post("/api/tracks/mix", json={"corpus": "noises", "track_id": "song 9"})
    assert answer.status_code == 404
    rows = client.get("/api/tracks", params={"contains": "song 0"}).json()["tracks"][0]["stems"]
    everything = {**wanted, "leave_out": [row["key"] for row in rows]}
    assert "no stem of track" in client.post("/api/tracks/mix", json=everything).json()["detail"]
