"""A disk that is full, or can only be read: one sentence, nothing half-written, then it goes on."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from safetensors.numpy import save_file

from ml.artifacts import write_aside, write_folder_aside
from ml.cli.main import main

pytestmark = pytest.mark.faults
NUMBERS = np.random.default_rng(0).standard_normal(400_000)


def mount(*options: str) -> bool:
    return subprocess.run(["mount", *options], check=False, capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)):
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(NUMBERS.tobytes()),
    "polars": lambda path: pl.DataFrame({"x": NUMBERS}).write_parquet(path),
    "torch": lambda path: torch.save(torch.from_numpy(NUMBERS), path),
    "safetensors": lambda path: save_file({"x": NUMBERS}, path),
    "soundfile": lambda path: soundfile.write(path, NUMBERS, 44_100, format="WAV"),
}


@pytest.mark.parametrize("library", WRITERS)
def test_whatever_writes_the_system_says_that_the_disk_is_full(disk: Path, library: str):
    with pytest.raises(OSError, match="No space left") as refused, write_aside(disk / "a") as aside:
        WRITERS[library](aside)
    assert refused.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space left"), write_folder_aside(disk / "b") as folder:
        WRITERS[library](folder / "a")
    assert not list(disk.iterdir())


def test_a_command_says_so_in_a_sentence_and_goes_on(
    disk: Path, capsys: pytest.CaptureFixture[str]
):
    songs = disk.parent / "songs" / "song"
    songs.mkdir(parents=True)
    for name in ("bass", "piano"):
        soundfile.write(songs / f"{name}.wav", NUMBERS[:44_100], 44_100)
    home = ["--home", str(disk / "home")]
    assert main([*home, "corpus", "add", "mine", "folder", str(songs.parent)]) == 0
    build = [*home, "corpus", "build", "mine", "--workers", "1"]
    rest = (disk / "rest").open("wb", buffering=0)
    with rest, pytest.raises(OSError, match="No space"):
        while True:
            rest.write(bytes(4096))
    assert last_words(build, capsys).endswith(
        "No space left on device; free space on its disk and run the same command again: what is "
        "finished is kept"
    )
    (disk / "rest").unlink()
    assert mount("-o", "remount,ro", str(disk))
    assert "Read-only file system; make its disk writable" in last_words(build, capsys)
    assert mount("-o", "remount,rw", str(disk))
    assert main(build) == 0


def last_words(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of a run that fails, which is the only one about it."""
    capsys.readouterr()
    assert main(words) == 1
    *others, last = capsys.readouterr().err.splitlines()
    assert not any("rror" in line for line in others)
    return last
