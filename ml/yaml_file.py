"""YAML that people write, with limits: no aliases, no key twice, no more than a person writes.

An alias can blow ten lines up to gigabytes, a key that stands twice hides the first value.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

MAX_BYTES = 1_000_000
"""Of a file."""
MAX_DEPTH = 40
"""Of lists and mappings in each other."""


class YamlFileError(ValueError):
    """The file cannot be read as a mapping; says where and why."""


class _Loader(yaml.SafeLoader):
    """Safe, and refuses what no settings need."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose what comes next, unless it is an alias or lies too deep."""
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(
                None, None, "an alias (*name): write the value out", self.peek_event().start_mark
            )
        if self._depth > MAX_DEPTH:
            problem = f"more than {MAX_DEPTH} lists and mappings in each other"
            raise ComposerError(None, None, problem, self.peek_event().start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)  # type: ignore[arg-type]
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Make a dictionary whose keys all differ."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice: keep one", key_node.start_mark
                )
            seen.add(key if isinstance(key, Hashable) else None)
        return super().construct_mapping(node, deep=deep)


@lru_cache(maxsize=8)
def _parsed(text: str) -> Any:
    """Parse, once: settings are loaded a hundred times a run, mostly from the same text."""
    return _Loader(text).get_single_data()


def parse_yaml(data: bytes, path: Path) -> dict[str, Any]:
    """Read a mapping from the bytes of a file.

    Args:
        data: UTF-8; empty: an empty mapping.
        path: of the file, for errors.

    Raises:
        YamlFileError: it is too large, not UTF-8, not YAML or no mapping, has an alias or a key
            twice, or goes too deep.
    """
    if len(data) > MAX_BYTES:
        raise YamlFileError(f"{path} has {len(data):,} bytes, expected at most {MAX_BYTES:,}")
    try:
        found = copy.deepcopy(_parsed(data.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        raise YamlFileError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise YamlFileError(f"{path} is not YAML that is read here: {error}; mend it") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise YamlFileError(
            f"{path} holds a {type(found).__name__}, expected sections as 'training: …'; mend it"
        )
    return found
