"""The wheel, installed outside the checkout: all of it is there, and it answers a query."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ml.cli.main import VERBS

ROOT = Path(__file__).parent.parent
PACKAGES = ("ml", "assets_def", "pipelines")
HELP = """
import contextlib
from ml.cli.main import VERBS, main

for verb in VERBS:
    with contextlib.suppress(SystemExit):
        main([verb, "--help"])
"""
GRAPH = """
from pipelines.definitions import build_definitions
print(len(build_definitions().resolve_asset_graph().get_all_asset_keys()))
"""


def package_files() -> set[str]:
    """All files of the packages, as a checkout has them."""
    files = (path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file())
    return {
        path.relative_to(ROOT).as_posix()
        for path in files
        if "__pycache__" not in path.parts and path.name != "README.md"
    }


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment that has the wheel, and the packages of this one beside it."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([*pip, *build], check=True)
    shutil.rmtree(source)
    (wheel,) = folder.glob("stem_retrieval-*.whl")
    python = folder / "environment" / "bin" / "python"
    venv = [sys.executable, "-m", "venv", "--without-pip", str(folder / "environment")]
    subprocess.run(venv, check=True)
    place = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    here = Path(subprocess.run(place, check=True, capture_output=True, text=True).stdout.strip())
    # Packages of the running environment, but not its ``.pth`` files: the checkout stays unknown.
    (here / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)],
        check=True,
    )
    return python


def run(*command: object, cwd: Path) -> str:
    """What a command prints; it must succeed."""
    words = [str(part) for part in command]
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_every_file_is_installed_and_only_there(python: Path, tmp_path: Path):
    place = Path(run(python, "-c", "import ml; print(ml.__file__)", cwd=tmp_path).strip())
    assert place.is_relative_to(python.parent.parent)
    site = place.parent.parent
    assert {name for name in package_files() if not (site / name).is_file()} == set()


@pytest.mark.slow
def test_the_installed_command_answers_a_query(python: Path, home: Path, tmp_path: Path):
    stems = python.parent / "stems"
    helps = run(python, "-c", HELP, cwd=tmp_path)
    assert helps.count("usage: stems ") == len(VERBS)
    assert int(run(python, "-c", GRAPH, cwd=tmp_path)) >= 10
    run(stems, "--home", home, "gc", cwd=tmp_path)
    run(stems, "--home", home, "embed", "demo", "--model", "film", cwd=tmp_path)
    noise = 0.1 * np.random.default_rng(0).standard_normal((48_000, 2), dtype=np.float32)
    soundfile.write(tmp_path / "mix.wav", noise, 16_000)
    asked = ["query", "mix.wav", "--instrument", "bass guitar", "--model", "film", "--json"]
    assert json.loads(run(stems, "--home", home, *asked, cwd=tmp_path))
