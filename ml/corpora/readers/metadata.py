"""The metadata files that corpora bring along, JSON and YAML; what is broken is named by path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ml.tracks import CorpusError

_REMEDY = "extract the corpus again, or take the track out"


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
