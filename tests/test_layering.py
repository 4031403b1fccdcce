"""Imports point down, and training needs little more than torch."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = (
    ("kinds", "locks", "metrics", "plain", "progress", "device", "processes", "tracks"),
    ("artifacts", "yaml_file"),
    ("parquet", "object_store", "mlflow_store", "settings"),
    ("audio", "labels"),
    ("figures", "scores", "corpora/readers", "corpora/demo"),
    ("corpora/midi",),
    ("corpora",),
    ("models", "shards"),
    ("training",),
    ("retrieval/embeddings", "beats"),
    ("music",),
    ("retrieval/tables", "retrieval/evaluation"),
    ("retrieval/champion",),
    ("retrieval/queries",),
    ("retrieval", "reports", "serve"),
    ("upkeep",),
    ("benchmarks", "cli", "starter"),
)
"""Folders and ground files of ``ml``, lowest first: each imports only from floors below its own."""
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


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_files(path: Path, modules: set[str]) -> set[str]:
    """The files of this project that a file imports, deferred imports included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= below & modules or {node.module} & modules
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & modules
    return found - {module_name(path)}


def room(module: str) -> str:
    """The room of a module of ``ml`` as ``FLOORS`` names it."""
    parts = module.split(".")[1:]
    for depth in (2, 1):
        if (name := "/".join(parts[:depth])) in HEIGHTS:
            return name
    raise AssertionError(f"{module} stands on no floor: name its room in FLOORS")


HEIGHTS = {name: height for height, floor in enumerate(FLOORS) for name in floor}
PACKAGES = ("ml", "assets_def", "pipelines")
FILES = {module_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
GRAPH = {name: imported_files(path, set(FILES)) for name, path in FILES.items()}


def test_packages_import_down():
    """pipelines → assets_def → ml, and ml knows no Dagster."""
    wrong = [
        f"{name} imports {other}"
        for name in FILES
        for other in imports(FILES[name])
        if ((top := other.partition(".")[0]) == "dagster" and name.startswith("ml"))
        or (top in PACKAGES and PACKAGES.index(top) > PACKAGES.index(name.partition(".")[0]))
    ]
    assert not wrong


def test_rooms_of_ml_import_from_floors_below_their_own():
    modules = [name for name in FILES if name.startswith("ml.")]
    wrong = [
        f"{name} imports {other}"
        for name in modules
        for other in GRAPH[name]
        if other != "ml"
        and room(name) != room(other)
        and HEIGHTS[room(name)] <= HEIGHTS[room(other)]
    ]
    assert not wrong


def test_folders_stay_small():
    """One finds what one looks for: where a seventeenth module comes, a folder is two."""
    counts = {
        str(folder.relative_to(ROOT)): len(set(folder.glob("*.py")) - {folder / "__init__.py"})
        for package in ("ml", "assets_def", "pipelines")
        for folder in (ROOT / package, *(ROOT / package).rglob("*"))
        if folder.is_dir()
    }
    assert {folder: count for folder, count in counts.items() if count > 16} == {}


def test_no_file_imports_in_a_circle():
    def below(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in GRAPH[name]:
                below(other, (*path, name))
            done.add(name)

    done: set[str] = set()
    for name in GRAPH:
        below(name, ())


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


@pytest.mark.parametrize(
    ("address", "names"),
    {
        "ml.corpora.folder": ["FolderCorpus", "labels_of_name"],
        "ml.corpora.taxonomy": ["CATEGORIES", "FOUR_CLASSES", "category_of", "four_class"],
        "ml.models.label_encoders": ["build_label_encoder"],
        "ml.retrieval.audio_windows": ["read_window"],
        "ml.retrieval.metrics": ["retrieval_scores", "target_ranks"],
        "ml.retrieval.mix_input": ["read_chunks"],
    }.items(),
)
def test_published_addresses_lead_somewhere(address: str, names: list[str]):
    """What code outside imports, though it has moved."""
    module = importlib.import_module(address)
    assert all(hasattr(module, name) for name in names)
