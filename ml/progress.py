"""What people see meanwhile: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self, TypeVar

_log = logging.getLogger("stems.progress")
T = TypeVar("T")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

LINE_EVERY_S = 10.0
"""Between two log lines where there is no terminal."""


def progress(items: Iterable[T], *, total: int, label: str, done: int = 0) -> Iterator[T]:
    """Yield ``items`` and show how many of ``total`` are done; ``done`` of them were before."""
    with ProgressBar(total=total, label=label, done=done) as bar:
        for count, item in enumerate(items, start=done + 1):
            yield item
            bar.update_to(count)


class ProgressBar:
    """Shows how far a long piece of work is.

    On a terminal a tqdm bar on stderr; elsewhere one log line (level INFO) every
    ``LINE_EVERY_S`` seconds and one at the end.
    """

    def __init__(self, *, total: int, label: str, done: int = 0) -> None:
        self.total, self.label, self.done = total, label, done
        self._started = self._shown = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and importlib.util.find_spec("tqdm"):  # not on a bare GPU box
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, desc=label, leave=False)

    def update_to(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
        """Show that ``done`` of ``total`` are done, with ``metrics`` beside."""
        step, self.done = done - self.done, done
        shown = {name: f"{value:.3g}" for name, value in (metrics or {}).items() if "loss" in name}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(step)
        elif time.monotonic() - self._shown >= LINE_EVERY_S:
            self._shown = time.monotonic()
            beside = "".join(f", {name} {value}" for name, value in shown.items())
            _log.info("%s: %d of %d%s", self.label, done, self.total, beside)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        elapsed_s = time.monotonic() - self._started
        if self._bar is not None:
            self._bar.close()
        if kind is None:
            _log.info("%s: %d done in %.0f s", self.label, self.done, elapsed_s)
        elif kind is KeyboardInterrupt:
            _log.info("%s: stopped after %d of %d", self.label, self.done, self.total)


def printable(text: str) -> str:
    """Write control characters out, but ends of lines and tabs: a terminal would obey them."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class _Lines(logging.Formatter):
    """Messages alone, whatever the names in them hold."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a message."""
        return printable(super().format(record))


def set_up_logging(level: int = logging.INFO) -> None:
    """Log plain lines to stderr; below warnings only the project's own messages."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in ("ml", "stems"):
        logging.getLogger(name).setLevel(level)
