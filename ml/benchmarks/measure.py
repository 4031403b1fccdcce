"""One measured figure: what was asked, what a named peer needs in the same run."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from ml.processes import process_pool

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A figure of a benchmark."""

    name: str
    """What was measured, in words: "shards from 44.1 kHz stereo WAV"."""
    value: float
    unit: str
    """Of value, peer_value and asked: "s of stem per CPU s", "ms"."""
    asked: float | None = None
    """The figure to reach; None: for information."""
    lower_is_better: bool = False
    peer: str | None = None
    """What the same work was done with for comparison: "ffmpeg loop"."""
    peer_value: float | None = None
    note: str = ""
    """What one must know to read it: sizes, what is left out."""

    @property
    def is_reached(self) -> bool | None:
        """Whether the asked figure was reached; None where none was asked."""
        if self.asked is None:
            return None
        return self.value <= self.asked if self.lower_is_better else self.value >= self.asked

    @property
    def ratio(self) -> float | None:
        """How many times the peer; None without one."""
        return self.value / self.peer_value if self.peer_value else None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a call took."""

    wall_s: float
    cpu_s: float
    """Of this process and its finished children, all cores."""


def cost_of(work: Callable[[], Any], *, repeats: int = 1) -> Cost:
    """Run ``work`` ``repeats`` times; the median of each figure."""
    costs = [_once(work) for _ in range(repeats)]
    return Cost(
        wall_s=median(cost.wall_s for cost in costs), cpu_s=median(cost.cpu_s for cost in costs)
    )


def seconds_of(work: Callable[[], Any]) -> float:
    """Run ``work`` once; wall time."""
    return _once(work).wall_s


def in_own_process(work: Callable[..., Result], *arguments: Any) -> tuple[Result, float]:
    """Run ``work``, a function of a module, so that its memory is its own.

    Returns:
        What it returns, and its peak memory in GB.
    """
    with process_pool(1) as pool:
        return pool.submit(work, *arguments).result(), pool.submit(peak_memory_gb).result()


def peak_memory_gb() -> float:
    """Return the largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _once(work: Callable[[], Any]) -> Cost:
    wall, cpu = time.perf_counter(), _cpu_s()
    work()
    return Cost(wall_s=time.perf_counter() - wall, cpu_s=_cpu_s() - cpu)


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
