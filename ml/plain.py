"""Configurations as plain JSON types, and back; names that are nearly right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

D = TypeVar("D")
_IS_ADDED = "is_added"
_SOURCE = re.compile(r",? *\S*/\S+\.rs:\d.*")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Guess which of the known names an unknown one means: ``" (did you mean 'query'?)"``.

    The guess goes into an error after the unknown name; it is empty where nothing is near.
    """
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def no_database_at(path: Path) -> str | None:
    """Say why MLflow and Dagster can keep no database at a path; None: they can.

    Both put the path into a URL as it is: what follows a ``?`` is lost, ``%20`` becomes a blank,
    and the database lies in another folder.
    """
    if re.search(r"\?|%[0-9A-Fa-f]{2}", str(path)) is None:
        return None
    return (
        f"{path}: MLflow and Dagster read '?' and '%20' in a path as parts of an address, and "
        "their databases would lie in another folder; rename it, or take another STEMS_HOME"
    )


def first_line(error: Exception) -> str:
    """Shorten what a library says: without the places in its source."""
    line = next(iter(str(error).splitlines()), "")
    return _SOURCE.sub("", line) or type(error).__name__


def added_field(default: D) -> D:
    """Declare a field of a configuration that is younger than artifacts with this configuration.

    ``jsonable`` leaves it out while it has its default, which must mean: as before the field
    was there. So whatever was made before keeps its fingerprint (the identity of training runs,
    the id of models), and ``dataclass_from`` reads what was written then.
    """
    return field(default=default, metadata={_IS_ADDED: True})


def jsonable(value: Any) -> Any:
    """Turn dataclasses, paths, tuples and sets into plain JSON types, mappings with sorted keys.

    An ``added_field`` at its default is left out.
    """
    if is_dataclass(value) and not isinstance(value, type):
        named = ((f, getattr(value, f.name)) for f in fields(value))
        value = {
            f.name: inner
            for f, inner in named
            if not (_IS_ADDED in f.metadata and inner == f.default)
        }
    if isinstance(value, Mapping):
        return {str(k): jsonable(value[k]) for k in sorted(value, key=str)}
    if isinstance(value, (set, frozenset)):
        return sorted(jsonable(v) for v in value)
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, Path):
        return value.as_posix()
    return value


def dataclass_from(kind: type[D], values: Mapping[str, Any]) -> D:
    """Make a (nested) dataclass of what ``jsonable`` made of it.

    Raises:
        ValueError: an unknown field, or a value of another type; names it and what was expected.
    """
    assert is_dataclass(kind)
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise ValueError(
            f"{kind.__name__} has no field {', '.join(map(repr, unknown))}; "
            f"expected some of: {', '.join(sorted(known))}"
        )
    hints = get_type_hints(kind)
    named = {
        name: _typed(hints[name], value, f"{kind.__name__}.{name}")
        for name, value in values.items()
    }
    return kind(**named)


def _typed(hint: Any, value: Any, name: str) -> Any:
    if get_origin(hint) in (Union, UnionType):
        inner = [option for option in get_args(hint) if option is not type(None)]
        return value if value is None or len(inner) > 1 else _typed(inner[0], value, name)
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return dataclass_from(hint, value)
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    if hint is float and type(value) is int:
        return float(value)
    wanted = hint if isinstance(hint, type) else get_origin(hint)
    is_other = isinstance(wanted, type) and not isinstance(value, wanted)
    if is_other or (isinstance(value, bool) and wanted is int):
        raise ValueError(f"{name} is {value!r}, expected {getattr(hint, '__name__', hint)}")
    return value


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested configuration to dotted names; an empty mapping is a value."""
    result: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
