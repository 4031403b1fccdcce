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
from ml.download import DownloadError, download
from ml.labels.clap_files import PublishedFile, fetch_clap

CONTENT = bytes(range(256)) * 8000  # 2 MB: more than one block
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server has, how it misbehaves, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: {"/model.pt": CONTENT})
    break_after: list[int] = field(default_factory=list)
    """Bytes after which the next answers end; then answers are whole."""
    does_ranges: bool = True
    fails_first: int = 0
    """So many answers are 503."""
    asked: list[str] = field(default_factory=list)
    """``Range`` of each request."""


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.headers.get("Range", ""))
            content = site.files.get(self.path)
            if content is None or site.fails_first:
                site.fails_first = max(0, site.fails_first - 1)
                return self.send_error(404 if content is None else 503)
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
    url = f"{site.url}/model.pt"
    download(url, path, sha256=sha256, size_bytes=size_bytes, tries=3, wait_s=0.01)


def test_breaks_are_gone_over_by_asking_for_the_rest(site: Site, tmp_path: Path) -> None:
    site.break_after = [700_000, 1, 500_000]
    get(site, tmp_path / "deep" / "model.pt")
    assert (tmp_path / "deep" / "model.pt").read_bytes() == CONTENT
    assert site.asked == ["", "bytes=700000-", "bytes=700001-", "bytes=1200001-"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model.pt"]


def test_another_process_goes_on_where_one_gave_up(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    site.break_after = [100_000, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"broke off 3 times at 100000 of .*goes on from there"):
        get(site, path)
    assert [found.name for found in tmp_path.iterdir()] == ["model.pt.part"]
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
    with pytest.raises(DownloadError, match="answers 404"):
        get(site, tmp_path / "other.pt")
    assert len(site.asked) == 1


def test_a_wrong_hash_leaves_nothing_and_names_both(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"SHA-256 {SHA256}, expected 000"):
        get(site, tmp_path / "model.pt", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_size_is_not_even_read(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"offers {len(CONTENT)} bytes, expected 5"):
        get(site, tmp_path / "model.pt", size_bytes=5)
    assert list(tmp_path.iterdir()) == []


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
