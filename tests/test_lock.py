"""The lock installs the pinned versions, each by the hashes of its files."""

import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PLATFORMS = [
    {"sys_platform": system, "platform_machine": machine, "python_full_version": version}
    for system, machine, version in itertools.product(
        ("linux", "darwin"), ("x86_64", "aarch64", "arm64"), ("3.11.9", "3.12.9")
    )
]
"""What this runs on, as markers call it."""


def locked() -> Iterator[tuple[Requirement, list[str]]]:
    """Give what is in the lock, with its hashes."""
    text = (ROOT / "constraints.lock").read_text()
    for entry in re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "").splitlines():
        named, *hashes = entry.split("--hash=")
        yield Requirement(named), [one.strip() for one in hashes]


def is_installed(requirement: Requirement) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**one}) for one in PLATFORMS)


def test_what_the_lock_installs_is_pinned_and_has_hashes():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(name): version for name, version in (x.split("==") for x in lines)}
    for requirement, hashes in locked():
        assert hashes, requirement
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in hashes), requirement
        if is_installed(requirement):
            assert requirement.specifier == f"=={pins[canonicalize_name(requirement.name)]}"


def test_the_lock_installs_all_that_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = project["optional-dependencies"].values()
    asked = map(Requirement, itertools.chain(project["dependencies"], *groups))
    names = {canonicalize_name(requirement.name) for requirement, _ in locked()}
    assert {canonicalize_name(requirement.name) for requirement in asked} <= names
