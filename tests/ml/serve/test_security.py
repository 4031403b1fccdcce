"""Who may ask, and what every answer carries."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from ml.serve.app import ServeError, allowed_hosts, bind, url_of
from ml.serve.security import HEADERS, is_loopback


@pytest.mark.parametrize(
    ("host", "is_welcome"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("LOCALHOST", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("", False),
        ("[", False),
    ],
)
def test_only_names_of_this_machine_are_answered(
    client: TestClient, host: str, is_welcome: bool
) -> None:
    answer = client.get("/openapi.json", headers={"Host": host})
    assert answer.status_code == (200 if is_welcome else 400)
    if not is_welcome:
        assert "does not answer for host" in answer.json()["detail"]


def test_pages_of_other_sites_may_not_send_anything(client: TestClient) -> None:
    for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
        answer = client.post("/api/mixes", content=b"RIFF", headers={"Origin": origin})
        assert answer.status_code == 403
        assert "may not send anything here" in answer.json()["detail"]
    answer = client.post("/api/mixes", content=b"RIFF", headers={"Origin": "http://localhost"})
    assert answer.status_code == 415
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/healthz", "/nothing", "/api/search"])
def test_every_answer_carries_the_headers(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_the_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/").text
    assert "https://" not in page
    assert "http://" not in page
    assert "<style" not in page
    assert 'style="' not in page
    for name in ("app.js", "player.js", "style.css", "icon.svg"):
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 200
        assert (
            client.get(
                f"/static/{name}", headers={"If-None-Match": answer.headers["etag"]}
            ).status_code
            == 304
        )


def test_knows_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "example.org")))
    assert allowed_hosts("0.0.0.0") is None
    assert allowed_hosts("127.0.0.2") == ("127.0.0.1", "localhost", "::1", "127.0.0.2")


def test_says_why_it_cannot_listen() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {port} of 127.0.0.1 is taken"):
            bind("127.0.0.1", port)
    with pytest.raises(ServeError, match="cannot listen on port"):
        bind("192.0.2.1", 0)
    with pytest.raises(ServeError, match="is not known"):
        bind("no such host", 0)


def test_urls_can_be_opened() -> None:
    assert url_of("127.0.0.1", 8000) == "http://127.0.0.1:8000/"
    assert url_of("0.0.0.0", 8000) == "http://127.0.0.1:8000/"
    assert url_of("::", 80) == "http://[::1]:80/"
    assert url_of("::1", 80) == "http://[::1]:80/"
