"""What is renamed was synced before, and its folder after: a power cut leaves the old or the new.

One place does that (``ml.artifacts.put``), and nothing else renames.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from ml.artifacts import write_aside, write_folder_aside

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "ml/artifacts.py": "put itself, and what it replaces goes aside",
    "ml/beats/feature_files.py": "synced when all features are there",
    "ml/retrieval/embeddings/parts.py": "a folder that is about to be removed",
}
"""Other renames, and why they lose nothing."""


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and renamed, in order, by name."""
    seen: list[tuple[str, str]] = []
    sync, replace = os.fsync, Path.replace

    def logged_sync(handle: int) -> None:
        seen.append(("sync", Path(f"/proc/self/fd/{handle}").readlink().name))
        sync(handle)

    def logged_replace(self: Path, target: Path) -> Path:
        seen.append(("rename", Path(target).name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", logged_sync)
    monkeypatch.setattr(Path, "replace", logged_replace)
    return seen


def test_a_file_is_synced_then_named_then_its_folder_is_synced(
    tmp_path: Path, log: list[tuple[str, str]]
):
    with write_aside(tmp_path / "a.json") as aside:
        aside.write_text("{}")
    assert log == [("sync", aside.name), ("rename", "a.json"), ("sync", tmp_path.name)]


def test_so_is_a_folder_with_all_that_is_in_it(tmp_path: Path, log: list[tuple[str, str]]):
    with write_folder_aside(tmp_path / "model") as aside:
        (aside / "deep").mkdir()
        (aside / "deep" / "weights").write_bytes(b"x")
    assert log[-2:] == [("rename", "model"), ("sync", tmp_path.name)]
    assert set(log[:-2]) == {("sync", name) for name in (aside.name, "deep", "weights")}
    assert (tmp_path / "model" / "deep" / "weights").read_bytes() == b"x"


def renames(path: Path) -> bool:
    """Whether a file calls ``rename`` or ``replace`` with one argument: of a path, no string."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("rename", "replace")
        and len(node.args) == 1
        and not node.keywords
        for node in ast.walk(ast.parse(path.read_text()))
    )


def test_nothing_else_renames():
    files = [p for name in ("ml", "assets_def", "pipelines") for p in (ROOT / name).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in files if renames(path)}
    assert found == set(ELSEWHERE)
