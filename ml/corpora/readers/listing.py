"""How readers look at a folder and at the metadata that a corpus brings along.

One listing a folder, the same order on every machine, no stat. Of JSON and YAML what is broken is
named by path.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from ml.tracks import CorpusError, shown

_SHOWN = 6
"""Entries that an error names."""
_REMEDY = "extract the corpus again, or take the track out"


def subfolders(folder: Path) -> list[Path]:
    """List its folders sorted by ``id_of``, hidden ones left out; [] if it is no folder.

    Raises:
        CorpusError: it may not be listed.
    """
    return sorted((Path(e.path) for e in _entries(folder) if e.is_dir()), key=_by_id)


def file_paths(folder: Path) -> list[Path]:
    """List what is in it and no folder, by ``id_of``, without hidden files; [] if there is none.

    Raises:
        CorpusError: it may not be listed.
    """
    return sorted((Path(e.path) for e in _entries(folder) if not e.is_dir()), key=_by_id)


def id_of(name: str) -> str:
    """Make a name from disk an id: readable text in Unicode NFC (macOS stores accents apart)."""
    return unicodedata.normalize("NFC", shown(name))


def find_file(path: Path) -> Path:
    """Find a file whose name may be stored in another Unicode form than it was typed in."""
    if str(path).isascii():
        return path
    found = Path(path.anchor)
    with suppress(
        OSError, StopIteration
    ):  # no such folder, a name that no disk has: whoever reads it says so
        for part in path.parts[len(found.parts) :]:
            exact = found / part
            if not exact.exists():
                exact = next(p for p in found.iterdir() if id_of(p.name) == id_of(part))
            found = exact
        return found
    return path


def walk_files(root: Path) -> Iterator[Path]:
    """List all files below a folder, through links to folders too, each folder once."""
    seen: set[tuple[int, int]] = set()
    for folder, subfolders_, names in os.walk(root, followlinks=True):
        state = Path(folder).stat()
        if (state.st_dev, state.st_ino) in seen:
            subfolders_.clear()  # a link that leads back, or to what was listed
            continue
        seen.add((state.st_dev, state.st_ino))
        subfolders_.sort()
        yield from (Path(folder, name) for name in sorted(names))


def nothing_found(root: Path, kind: str, looked_for: str) -> CorpusError:
    """Say of a root that holds no corpus of this kind what is there instead."""
    if root.is_file():
        return CorpusError(f"{root} is a file; expected a folder: looked for {looked_for}")
    shown = list(islice(_described(root), _SHOWN + 1))
    if not shown:
        return CorpusError(
            f"{root} is empty; looked for {looked_for}: put the {kind} corpus there, or give "
            "another root"
        )
    more = ", …" if len(shown) > _SHOWN else ""
    return CorpusError(
        f"{root} holds no {kind} corpus: looked for {looked_for}, found "
        f"{', '.join(shown[:_SHOWN])}{more}"
    )


def _described(root: Path) -> Iterator[str]:
    for path in subfolders(root):
        is_empty = next(_entries(path), None) is None
        yield f"{path.name}/ (empty)" if is_empty else f"{path.name}/"
    yield from (path.name for path in file_paths(root))


def _by_id(path: Path) -> str:
    return id_of(path.name)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """List the entries of a folder in any order; hidden ones left out."""
    try:
        with os.scandir(folder) as found:
            yield from (entry for entry in found if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise CorpusError(
            f"{folder} cannot be listed ({error.strerror}); let it be read, or give another root"
        ) from None


def read_json_metadata(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        CorpusError: missing, unreadable, not JSON, or no object.
    """
    try:
        return mapping_of(json.loads(_text(path)), path)
    except ValueError as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{path} is not JSON ({error}); {_REMEDY}") from None


def read_yaml_metadata(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, every scalar in it as text.

    Text, because a title may be ``1984`` or ``Yes``, and because it is three times as fast.

    Raises:
        CorpusError: missing, unreadable, not YAML, or no mapping.
    """
    import yaml

    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        return mapping_of(yaml.load(_text(path), loader), path)  # a base loader builds text only
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise CorpusError(f"{path} is not YAML ({reason}); {_REMEDY}") from None


def mapping_of(value: object, path: Path, key: str = "") -> dict[str, Any]:
    """Require a mapping under a key, or as the whole file; YAML's empty value is {}.

    Raises:
        CorpusError: it is missing or something else.
    """
    if isinstance(value, dict):
        return value
    if value == "" and key:
        return {}
    raise _unexpected(value, path, key, "a mapping")


def list_of(value: object, path: Path, key: str) -> list[Any]:
    """Require a list under a key of a metadata file.

    Raises:
        CorpusError: it is missing or something else.
    """
    if isinstance(value, list):
        return value
    raise _unexpected(value, path, key, "a list")


def text_of(value: object) -> str:
    """Take a scalar of a metadata file as text, "" where there is none."""
    return "" if value is None or isinstance(value, dict | list) else str(value).strip()


def yes_or_no(value: object) -> bool | None:
    """Read true or false as corpora write it ("yes", "no"), None for anything else."""
    return {"true": True, "yes": True, "false": False, "no": False}.get(text_of(value).lower())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CorpusError(f"{path} does not exist; {_REMEDY}") from None
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}); {_REMEDY}") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 ({error.reason}); {_REMEDY}") from None


def _unexpected(value: object, path: Path, key: str, expected: str) -> CorpusError:
    missing = "missing" if key else "empty"
    found = missing if value is None else f"{type(value).__name__} {value!r:.60}"
    where = f"{path}: {key}" if key else str(path)
    return CorpusError(f"{where} is {found}, expected {expected}; {_REMEDY}")
