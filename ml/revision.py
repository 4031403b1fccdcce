"""Which version of the program this is."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path


@functools.cache
def git_revision() -> str:
    """Return the program's git revision, ``+`` when files were changed; ``unknown`` outside git."""
    folder = Path(__file__).parent
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()
