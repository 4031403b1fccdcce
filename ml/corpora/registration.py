"""Corpora of the settings: one that a person names becomes one of them, once; opened, with audio.

In ``config.yaml`` everything else, comments included, is left as it is. Apart from
``ml.corpora.corpus``, since ``open_corpus`` knows no settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ml.artifacts import write_aside
from ml.corpora.corpus import open_corpus
from ml.corpora.scan import listed_tracks
from ml.processes import cluster
from ml.settings import Settings, SettingsError, check_corpus_name, demo_corpora
from ml.tracks import Corpus, RenderedCorpus
from ml.yaml_file import YamlFileError, parse_yaml


def register_corpus(
    settings: Settings,
    kind: str,
    root: Path,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Put a corpus into ``config.yaml`` if it is not there; returns its name.

    Args:
        settings: of the home.
        kind: of its layout.
        root: its folder, or the CSV.
        name: default: the name that the settings have for this root, else that of the folder.
        options: of its reader.

    Raises:
        SettingsError: the name is unfit, or stands for another corpus.
        CorpusError: there is no such corpus, or it holds no stems.
    """
    root, options = root.expanduser().resolve(), options or {}
    places = {_place(settings, known): known for known in settings.corpora}
    name = name or places.get((kind, root)) or _fit_name(root.stem if root.is_file() else root.name)
    if name not in settings.corpora:
        listed_tracks(open_corpus(kind, root, **options))
        add_corpus(settings, name, kind=kind, root=root, options=options)
        return name
    if (place := _place(settings, name)) != (kind, root):
        raise SettingsError(
            f"{settings.layout.config_path} has a corpus {name!r} of kind {place[0]} at "
            f"{place[1]}, you said {kind} at {root}; choose another name, or change it there"
        )
    if options and settings.corpora[name].options != options:
        raise SettingsError(
            f"{settings.layout.config_path} has the corpus {name!r} with the options "
            f"{settings.corpora[name].options}, expected {options}; change them there"
        )
    return name


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


def open_registered(settings: Settings, name: str, **options: Any) -> Corpus:
    """Open a corpus of the settings.

    Args:
        settings: of the home.
        name: of the corpus.
        options: of its reader, beside those of the settings.

    Raises:
        SettingsError: no corpus has this name.
        CorpusError: as ``open_corpus``.
    """
    chosen = settings.corpus(name)
    return open_corpus(chosen.kind, chosen.root, **(chosen.options | options))


def render_missing(settings: Settings, name: str, workers: int = 1) -> None:
    """Render what is not there of a corpus of kind ``midi``; others have what they have.

    The cluster of the settings renders, or else ``workers`` processes.

    Raises:
        CorpusError: its files or soundfonts have gone, or the cluster writes to other disks.
        LockedError: another process is rendering it.
        ml.processes.WorkersError: the cluster cannot be reached, or its workers died.
    """
    if settings.corpus(name).kind == "midi":
        corpus = open_registered(settings, name)
        assert isinstance(corpus, RenderedCorpus)
        with cluster(settings.compute.dask_scheduler) as executor:
            corpus.render(workers=workers, executor=executor)


def _place(settings: Settings, name: str) -> tuple[str, Path]:
    corpus = settings.corpus(name)
    return corpus.kind, corpus.root.resolve()


def _fit_name(text: str) -> str:
    """Make the name of a folder one of a corpus, as far as that can be: "My Stems!", My-Stems."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")


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
