"""Corpora in ``config.yaml``, everything else in it, comments included, left as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ml.artifacts import write_aside
from ml.settings import Settings, SettingsError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def add_corpus(
    settings: Settings, name: str, *, kind: str, root: Path, options: Mapping[str, Any]
) -> Path:
    """Write a corpus into ``STEMS_HOME/config.yaml``, aside and renamed.

    A file without ``corpora:`` gets the default corpora too: they would be gone otherwise.

    Args:
        settings: of the home.
        name: of the corpus; becomes a folder name.
        kind: of its layout.
        root: absolute; written relative to the home where it lies below it.
        options: of its reader.

    Returns:
        The file.

    Raises:
        SettingsError: the name is taken or unfit, or the file is written in a way that cannot be
            edited line by line; says what to write by hand.
    """
    path = settings.layout.config_path
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"corpus name {name!r} is no folder name; expected letters, digits and . _ -"
        )
    if name in settings.corpora:
        raise SettingsError(f"{path} has a corpus {name!r} already; choose another name")
    home = settings.home.resolve()
    entry: dict[str, Any] = {
        "kind": kind,
        "root": (root.relative_to(home) if root.is_relative_to(home) else root).as_posix(),
    }
    if options:
        entry["options"] = dict(options)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    before = yaml.safe_load(text) or {}
    corpora = {name: entry}
    if "corpora" not in before:
        corpora = _default_corpora() | corpora
    edited = _with_entries(text, corpora)
    wanted = before | {"corpora": before.get("corpora", {}) | corpora}
    if edited is None or yaml.safe_load(edited) != wanted:
        by_hand = yaml.safe_dump({name: entry}, default_flow_style=True, width=1000).strip()
        raise SettingsError(f"{path} cannot be edited safely; add under 'corpora:' {by_hand}")
    with write_aside(path) as aside:
        aside.write_text(edited, encoding="utf-8")
    return path


def drop_corpus(settings: Settings, name: str) -> Path | None:
    """Take a corpus out of ``STEMS_HOME/config.yaml``, aside and renamed.

    Returns:
        The file; None where it names no such corpus.

    Raises:
        SettingsError: the file is written in a way that cannot be edited line by line.
    """
    path = settings.layout.config_path
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    before = yaml.safe_load(text) or {}
    corpora = before.get("corpora", _default_corpora())
    if name not in corpora:
        return None
    left = {key: value for key, value in corpora.items() if key != name}
    if "corpora" in before:
        edited = _without_entry(text, name, is_last=not left)
    else:
        edited = _with_entries(text, left)
    if edited is None or yaml.safe_load(edited) != before | {"corpora": left}:
        raise SettingsError(f"{path} cannot be edited safely; take {name!r} out of 'corpora:'")
    with write_aside(path) as aside:
        aside.write_text(edited, encoding="utf-8")
    return path


def _default_corpora() -> dict[str, Any]:
    default = Settings.model_fields["corpora"].get_default(call_default_factory=True)
    return {
        key: {"kind": value.kind, "root": value.root.as_posix()} for key, value in default.items()
    }


def _with_entries(text: str, corpora: Mapping[str, Any]) -> str | None:
    """The text with entries at the end of its ``corpora:`` block; None if that is not a block."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("corpora:")), None)
    if start is None:
        return "\n".join([*lines, "corpora:", *_dump(corpora, "  ")]) + "\n"
    if not re.fullmatch(r"corpora:\s*(\{\s*\})?\s*(#.*)?", lines[start]):
        return None
    lines[start] = re.sub(r"^corpora:\s*\{\s*\}", "corpora:", lines[start])
    end, indent = start + 1, "  "
    for place in range(start + 1, len(lines)):
        line = lines[place]
        if line.strip() and not line[0].isspace() and not line.startswith("#"):
            break
        if line[:1].isspace() and line.strip() and not line.strip().startswith("#"):
            if end == start + 1:
                indent = line[: len(line) - len(line.lstrip())]
            end = place + 1
    return "\n".join([*lines[:end], *_dump(corpora, indent), *lines[end:]]) + "\n"


def _without_entry(text: str, name: str, *, is_last: bool) -> str | None:
    """The text without an entry of its ``corpora:`` block; None if it is not a block of lines."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("corpora:")), len(lines))
    entry = re.compile(rf"""(\s+)(["']?){re.escape(name)}\2:""")
    found = ((i, entry.match(line)) for i, line in enumerate(lines[start + 1 :], start + 1))
    first, match = next(((i, match) for i, match in found if match), (0, None))
    if match is None:
        return None
    indent = len(match[1])
    end = first + 1
    while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) > indent):
        end += 1
    while not lines[end - 1].strip():  # empty lines stay with what follows
        end -= 1
    if is_last:
        lines[start] = "corpora: {}"
    return "\n".join([*lines[:first], *lines[end:]]) + "\n"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _dump(corpora: Mapping[str, Any], indent: str) -> list[str]:
    dumped = yaml.safe_dump(dict(corpora), sort_keys=False, allow_unicode=True, width=1000)
    return [indent + line for line in dumped.splitlines()]
