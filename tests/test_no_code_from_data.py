"""No data becomes code: what would run what a file says is nowhere called."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("ml", "assets_def", "pipelines")
MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
KNOWN = {
    # Its unpickler builds tensors and nothing else.
    "ml/labels/untrusted.py": ["import pickle", "torch.load without weights_only=True"],
    # Bytes that the same process has written, in its memory.
    "ml/shards/split.py": ["import pickle"],
    # The name of an error, which torch raises of a file that is none of its own.
    "ml/training/checkpoints.py": ["import pickle"],
    # A base loader, which builds text.
    "ml/corpora/readers/listing.py": ["yaml.load()"],
}
"""What is allowed, and why."""
CALLS = {"eval", "exec", "compile", "yaml.load", "yaml.unsafe_load", "os.system", "os.popen"}


def faults(source: str) -> Iterator[str]:
    """Name what a module does that runs what data says."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from (f"import {x}" for x in names if x.split(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            yield from call_faults(node)


def call_faults(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name in CALLS:
        yield f"{name}()"
    if given.get("shell", "False") != "False":
        yield f"shell={given['shell']}"
    if name.endswith("torch.load") and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if given.get("allow_pickle", "False") != "False":
        yield f"allow_pickle={given['allow_pickle']}"


def test_nothing_runs_what_data_says():
    found = {
        str(path.relative_to(ROOT)): list(faults(path.read_text()))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert {path: lines for path, lines in found.items() if lines} == KNOWN


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from joblib import load", "eval(text)", "yaml.load(text, Loader)"),
        *("subprocess.run(text, shell=True)", "torch.load(path)", "np.load(p, allow_pickle=True)"),
        "torch.load(path, weights_only=False)",
    ],
)
def test_each_is_found(line: str):
    assert len(list(faults(line))) == 1


def test_what_reads_data_as_data_passes():
    lines = ("torch.load(p, weights_only=True)", "re.compile(x)", "model.eval()", "np.load(p)")
    assert [fault for line in lines for fault in faults(line)] == []
