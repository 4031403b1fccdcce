"""Imports point down, and training needs little more than torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "ml": {"dagster", "assets_def", "pipelines"},
    "assets_def": {"pipelines"},
    "pipelines": set(),
}
BARE = """
import importlib, pkgutil, re, sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

def closure(names):
    found, todo = set(), list(names)
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        try:
            needed = [line for line in requires(name) or [] if "extra ==" not in line]
            todo += [re.split(r"[^A-Za-z0-9._-]", line)[0] for line in needed]
        except PackageNotFoundError:
            pass
    return found

allowed = closure(sys.argv[2].split(","))
owners = packages_distributions()

class OnlyAllowed:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        dists = {dist.lower().replace("_", "-") for dist in owners.get(top, [])}
        if dists and not dists & allowed and top not in ("ml", "assets_def", "pipelines"):
            raise ImportError(f"{name} belongs to {sorted(dists)}, not to {sys.argv[2]}")

sys.meta_path.insert(0, OnlyAllowed())
for name in sys.argv[1].split(","):
    module = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{name}."):
        importlib.import_module(found.name)
"""


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module or ""


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_point_down(package: str):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imports(path)
        if name.partition(".")[0] in FORBIDDEN[package]
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["assets_def", "pipelines"])
def test_dagster_can_read_annotations(package: str):
    """Postponed annotations break ``context`` and ``Config`` parameters of assets."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert not [path for path in files if "__future__" in set(imports(path))]


@pytest.mark.parametrize(
    ("modules", "packages"),
    [
        ("ml.models,ml.audio.mel,ml.training,ml.corpora.demo", "torch,torchaudio,numpy"),
        ("ml.benchmarks.gpu", "torch,torchaudio,numpy,soundfile,webdataset"),
    ],
)
def test_bare_gpu_box_can_import(modules: str, packages: str):
    done = subprocess.run(
        [sys.executable, "-c", BARE, modules, packages],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_definitions_load_without_torch():
    """``dagster dev`` loads the code location in seconds."""
    heavy = "torch,mlflow,lancedb,polars,transformers,matplotlib"
    code = (
        "import sys; from pipelines.build import build_definitions; "
        "from assets_def.resources import StemsHome; "
        "build_definitions(home=StemsHome(home='/nonexistent')).resolve_asset_graph(); "
        f"print([m for m in '{heavy}'.split(',') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert "Warning" not in done.stderr
