"""Downloads against a real server on loopback that does ranges and breaks off in the middle."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ml.cli.main import main
from ml.labels.clap_files import DownloadError, PublishedFile, fetch_clap

CONTENT = bytes(range(256)) * 8000  # 2 MB: more than one block
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MODEL = "/a/b/resolve/r1/model.pt"


@dataclass
class Site:
    """What the server has, how it misbehaves, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: {MODEL: CONTENT})
    break_after: list[int] = field(default_factory=list)
    """Bytes after which the next answers end; then answers are whole."""
    does_ranges: bool = True
    fails_first: int = 0
    """So many answers are 429."""
    asked: list[str] = field(default_factory=list)
    """``Range`` of each request."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    monkeypatch.setattr("time.sleep", lambda _: None)
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.headers.get("Range", ""))
            content = site.files.get(self.path)
            if content is None or site.fails_first:
                site.fails_first = max(0, site.fails_first - 1)
                return self.send_error(404 if content is None else 429)
            start = 0
            if site.asked[-1] and site.does_ranges:
                start = int(site.asked[-1].removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = start + site.break_after.pop(0) if site.break_after else len(content)
            self.wfile.write(content[start:end])
            return None

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def get(site: Site, path: Path, *, sha256: str = SHA256, size_bytes: int = len(CONTENT)) -> None:
    file = PublishedFile(
        path=path.name, repository="a/b", revision="r1", size_bytes=size_bytes, sha256=sha256
    )
    fetch_clap(path.parent, host=site.url, files=[file])


def names(folder: Path) -> list[str]:
    """What lies there but the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_breaks_are_gone_over_by_asking_for_the_rest(site: Site, tmp_path: Path) -> None:
    site.break_after = [700_000, 1, 500_000]
    get(site, tmp_path / "deep" / "model.pt")
    assert (tmp_path / "deep" / "model.pt").read_bytes() == CONTENT
    assert site.asked == ["", "bytes=700000-", "bytes=700000-", "bytes=1200000-"]
    assert names(tmp_path / "deep") == ["manifest.json", "model.pt"]


def test_another_process_goes_on_where_one_gave_up(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    site.break_after = [100_000, *[0] * 6]
    with pytest.raises(DownloadError, match=r"no whole file of 2048000 .*goes on from there"):
        get(site, path)
    assert names(tmp_path) == ["model.pt.part"]
    site.break_after = []
    get(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked[-1] == "bytes=100000-"


def test_a_server_without_ranges_is_asked_for_all_of_it(site: Site, tmp_path: Path) -> None:
    site.does_ranges, site.break_after = False, [300_000]
    get(site, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == CONTENT


def test_an_overloaded_server_is_asked_again_a_missing_file_is_not(
    site: Site, tmp_path: Path
) -> None:
    site.fails_first = 2
    get(site, tmp_path / "model.pt")
    assert len(site.asked) == 3
    site.files, site.asked = {}, []
    with pytest.raises(DownloadError, match="404"):
        get(site, tmp_path / "other.pt")
    assert len(site.asked) == 1
    assert names(tmp_path) == ["manifest.json", "model.pt"]


def test_a_wrong_hash_leaves_nothing_and_names_both(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"SHA-256 {SHA256}, expected 000"):
        get(site, tmp_path / "model.pt", sha256="0" * 64)
    assert names(tmp_path) == []


@pytest.mark.parametrize("size_bytes", [5, 3_000_000])
def test_a_file_of_another_size_leaves_nothing(site: Site, tmp_path: Path, size_bytes: int) -> None:
    with pytest.raises(
        DownloadError, match=f"no whole file of {size_bytes} bytes .*{len(CONTENT)}"
    ):
        get(site, tmp_path / "model.pt", size_bytes=size_bytes)
    assert names(tmp_path) == []


def test_who_asked_to_be_offline_is_told(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        get(site, tmp_path / "model.pt")
    assert site.asked == []


def test_a_damaged_part_is_found_out_and_the_next_try_starts_anew(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "model.pt.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="SHA-256"):
        get(site, tmp_path / "model.pt")
    get(site, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == CONTENT


def test_clap_comes_in_files_and_only_what_is_missing(site: Site, tmp_path: Path) -> None:
    files = [
        PublishedFile(
            path=path,
            repository="a/b",
            revision="r1",
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        for path, content in {"big.pt": CONTENT, "tokenizer/vocab.json": b"{}"}.items()
    ]
    site.files = {"/a/b/resolve/r1/big.pt": CONTENT, "/a/b/resolve/r1/vocab.json": b"{}"}
    made = fetch_clap(tmp_path, host=site.url, files=files)
    assert (tmp_path / "tokenizer" / "vocab.json").read_bytes() == b"{}"
    assert made.summary == {file.path: file.sha256 for file in files}
    assert len(site.asked) == 2
    assert fetch_clap(tmp_path, host=site.url, files=files).reused
    (tmp_path / "big.pt").unlink()
    assert not fetch_clap(tmp_path, host=site.url, files=files).reused
    assert len(site.asked) == 3


def test_the_command_names_a_server_that_has_nothing(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(tmp_path)]
    assert main([*home, "labels", "fetch", "--mirror", site.url]) == 1
    assert f"{site.url}/lukewys/laion_clap/resolve/" in capsys.readouterr().err
    assert main([*home, "labels", "fetch", "--mirror", "mirror.example"]) == 2
    assert "no address of a server" in capsys.readouterr().err
