"""What a server grants its clients: sizes, times, how much at once.

A file of its own, for uploads, mixes, stems and the service that holds them all read it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """Bounds of a server; what is over them is refused in one sentence."""

    upload_bytes: int = 200_000_000
    """Size of an uploaded file."""
    upload_s: float = 300.0
    """Time that an upload may take to arrive."""
    upload_bytes_per_s: float = 20_000.0
    """What an upload must bring on average, but for its first seconds."""
    upload_slow_s: float = 10.0
    """These seconds."""
    uploads_at_once: int = 4
    """Uploads on their way at one time."""
    mix_s: float = 900.0
    """Length of a mix."""
    decode_s: float = 30.0
    """Time that the worker gets to decode an upload; then it is killed."""
    decode_memory_bytes: int = 4 << 30
    """Address space of that worker."""
    mixes: int = 64
    """Mixes that are kept; the one not used for longest goes first."""
    mix_bytes: int = 2_000_000_000
    """Size of all mixes that are kept."""
    stem_bytes: int = 1_000_000_000
    """Size of all decoded stems that are kept."""
    queries_at_once: int = 2
    """Queries that are computed at one time."""
    decodes_at_once: int = 2
    """Files that are decoded at one time."""
    waiting: int = 64
    """Requests that may wait for each of these; one more is told to come again."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"{field.name} = {value}; expected more than 0")
