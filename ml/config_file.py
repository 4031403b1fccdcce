"""Corpora in ``config.yaml``, everything else in it, comments included, left as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ml.artifacts import write_aside
from ml.settings import Settings, SettingsError, check_corpus_name, demo_corpora
from ml.yaml_file import YamlFileError, parse_yaml


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
    try:
        check_corpus_name(name)
    except ValueError as error:
        raise SettingsError(str(error)) from None
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
    before = parse_yaml(text.encode(), path)
    corpora = {name: entry} if "corpora" in before else _default_corpora() | {name: entry}
    by_hand = yaml.safe_dump({name: entry}, default_flow_style=True, width=1000).strip()
    wanted = before | {"corpora": (before.get("corpora") or {}) | corpora}
    _write(path, _with_entries(text, corpora), wanted, f"add under 'corpora:' {by_hand}")
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
    before = parse_yaml(text.encode(), path)
    corpora = before.get("corpora", _default_corpora())
    if name not in corpora:
        return None
    left = {key: value for key, value in corpora.items() if key != name}
    edited = _without_entry(text, name) if "corpora" in before else _with_entries(text, left)
    _write(path, edited, before | {"corpora": left}, f"take {name!r} out of 'corpora:'")
    return path


def _default_corpora() -> dict[str, Any]:
    return {
        key: {"kind": value.kind, "root": value.root.as_posix()}
        for key, value in demo_corpora().items()
    }


def _with_entries(text: str, corpora: Mapping[str, Any]) -> str:
    """Put entries at the end of the ``corpora:`` block."""
    lines = text.splitlines()
    place, entries = _find_entries(text)
    indent, end = "  ", place + 1
    if place == len(lines):
        lines.append("corpora:")
    elif entries:
        column, _, end = list(entries.values())[-1]
        indent = " " * column
    else:
        lines[place] = re.sub(r"^corpora:\s*\{\s*\}", "corpora:", lines[place])
    dumped = yaml.safe_dump(dict(corpora), sort_keys=False, allow_unicode=True, width=1000)
    return _joined([*lines[:end], *(indent + line for line in dumped.splitlines()), *lines[end:]])


def _without_entry(text: str, name: str) -> str:
    """Leave an entry of the ``corpora:`` block out; comments and empty lines around it stay."""
    lines = text.splitlines()
    place, entries = _find_entries(text)
    _, first, end = entries.get(name, (0, 0, 0))
    if len(entries) == 1:
        lines[place] = "corpora: {}"
    return _joined([*lines[:first], *lines[end:]])


def _find_entries(text: str) -> tuple[int, dict[str, tuple[int, int, int]]]:
    """Find the line of ``corpora:`` (the end: there is none), and its entries if it is a block.

    An entry is given by its column, its first line, and the line after its last.
    """
    lines = text.splitlines()
    document = yaml.compose(text)
    pairs = document.value if isinstance(document, yaml.MappingNode) else []
    place, block = next(
        ((key.start_mark.line, value) for key, value in pairs if key.value == "corpora"),
        (len(lines), None),
    )
    if not isinstance(block, yaml.MappingNode) or block.flow_style:
        return place, {}
    entries = {}
    starts = [key.start_mark.line for key, _ in block.value] + [block.end_mark.line]
    for (key, _), end in zip(block.value, starts[1:], strict=True):
        while not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#"):
            end -= 1  # they stay with what follows
        entries[key.value] = (key.start_mark.column, key.start_mark.line, end)
    return place, entries


def _joined(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _write(path: Path, edited: str, wanted: dict[str, Any], by_hand: str) -> None:
    """Write the edited text, if it says what it should."""
    try:
        is_right = parse_yaml(edited.encode(), path) == wanted
    except YamlFileError:
        is_right = False
    if not is_right:
        raise SettingsError(f"{path} cannot be edited safely; {by_hand}")
    with write_aside(path) as aside:
        aside.write_text(edited, encoding="utf-8")
