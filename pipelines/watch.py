"""What the sensor of changed corpora remembers, and what it concludes from it.

A corpus is asked for when its files look the same at two looks in a row (nobody is copying any
more) and otherwise than when it was asked for last. What is remembered is a few hundred bytes a
corpus; a look that ran out of time goes on at the next one.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ml.corpora.file_state import FileState, read_file_state
from ml.settings import Settings
from pipelines.evaluation import corpora_with_stems

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class CorpusWatch:
    """The memory of the sensor: its cursor."""

    seen: dict[str, str] = field(default_factory=dict)
    """Corpus → fingerprint at the last look."""
    asked: dict[str, str] = field(default_factory=dict)
    """Corpus → fingerprint when it was asked for."""
    left: list[str] = field(default_factory=list)
    """Corpora that the present round has still to look at."""
    begun: dict[str, Any] | None = None
    """The walk over the first of ``left``, where time ran out."""

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "CorpusWatch":
        """What ``to_cursor`` gave; empty where there is none or one of another version."""
        try:
            return cls(**json.loads(cursor or "{}"))
        except (TypeError, ValueError):
            return cls()

    def to_cursor(self) -> str:
        """As JSON."""
        return json.dumps(self.__dict__, separators=(",", ":"))

    def look(self, settings: Settings, budget_s: float) -> Mapping[str, str]:
        """Look at the corpora, as many as time allows.

        Args:
            settings: which corpora there are.
            budget_s: how long.

        Returns:
            Corpus → fingerprint, for those to ask for now.
        """
        until_s = time.monotonic() + budget_s
        known = corpora_with_stems(settings)
        for memory in (self.seen, self.asked):
            for name in set(memory) - set(known):
                del memory[name]
        if not self.left:
            self.left, self.begun = list(known), None
        stable = {}
        while self.left:
            name = self.left[0]
            fingerprint = self._fingerprint(settings, name, until_s) if name in known else None
            if self.begun is not None:
                break
            if fingerprint and self._is_new_and_stable(name, fingerprint):
                stable[name] = fingerprint
            self.left.pop(0)
            if time.monotonic() >= until_s:
                break
        return stable

    def _fingerprint(self, settings: Settings, name: str, until_s: float) -> str | None:
        """Of a corpus as it is now; None when time ran out (see ``begun``) or it cannot be read."""
        found = settings.corpus(name)
        begun = FileState.from_json(self.begun) if self.begun else None
        self.begun = None
        try:
            state = read_file_state(
                found.kind, found.root, found.options, begun=begun, until_s=until_s
            )
        except (OSError, ValueError) as error:
            _log.warning("corpus %s cannot be looked at: %s", name, error)
            return None
        if state.after is not None:
            self.begun = state.to_json()
            return None
        return state.fingerprint

    def _is_new_and_stable(self, name: str, fingerprint: str) -> bool:
        is_stable = self.seen.get(name) == fingerprint
        self.seen[name] = fingerprint
        if not is_stable or self.asked.get(name) == fingerprint:
            return False
        self.asked[name] = fingerprint
        return True
